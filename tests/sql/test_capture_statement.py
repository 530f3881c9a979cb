"""Capture per statement: what it refuses, and going over to it and back. test_capture
shows that it captures the same changes as capture per row."""

import threading
from typing import Any

import pytest
from psycopg import errors

from tests.support import wait_until
from tests.support.database import Database

WATCH = "SELECT pgherald.watch('bulk', 'app.plans', capture => %s)"


@pytest.fixture
def plans(sandbox: Database) -> Database:
    sandbox.execute("CREATE TABLE app.plans (id int PRIMARY KEY, status text)")
    return sandbox


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE app.plans (id int PRIMARY KEY, status text) PARTITION BY LIST (id)",
        """CREATE TABLE app.parent (id int PRIMARY KEY, status text) PARTITION BY LIST (id);
           CREATE TABLE app.plans PARTITION OF app.parent DEFAULT""",
        "CREATE TABLE app.parent (status text); CREATE TABLE app.plans (id int PRIMARY KEY) INHERITS (app.parent)",
        "CREATE TABLE app.plans (id int PRIMARY KEY, status text); CREATE TABLE app.child () INHERITS (app.plans)",
    ],
    ids=["partitioned", "partition", "child", "parent"],
)
def test_a_table_whose_rows_another_names_is_refused(sandbox: Database, tables: Any) -> None:
    sandbox.execute(tables)
    with pytest.raises(errors.WrongObjectType, match="partitioned or part of an inheritance tree") as caught:
        sandbox.execute(WATCH, ("statement",))
    assert caught.value.diag.message_hint == "Watch it per row."
    assert sandbox.execute("SELECT rule FROM pgherald.rule WHERE rule = 'bulk'") == []


@pytest.mark.parametrize("per", ["column", "", None])
def test_per_something_else_is_refused(plans: Database, per: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match='per "row" or per "statement"'):
        plans.execute(WATCH, (per,))


def test_over_to_it_and_back(plans: Database) -> None:
    """The handled rows stay handled, and each change has one event."""
    plans.execute("INSERT INTO app.plans VALUES (7, 'VE')")
    plans.execute(WATCH, ("row",))
    plans.execute("CALL pgherald.snapshot_existing('bulk')")
    plans.execute("UPDATE pgherald.rule SET paused_at = now() WHERE rule = 'bulk'")
    rule = "SELECT snapshot_done, paused_at FROM pgherald.rule WHERE rule = 'bulk'"
    before = plans.execute(rule)
    triggers = "SELECT tgtype FROM pg_trigger WHERE tgrelid = 'app.plans'::regclass ORDER BY tgname"
    for number, (per, types) in enumerate((("statement", [4, 16]), ("row", [5, 17]), ("statement", [4, 16]))):
        plans.execute(WATCH, (per,))
        assert plans.execute("SELECT capture FROM pgherald.rule WHERE rule = 'bulk'") == [(per,)]
        assert [type_ for (type_,) in plans.execute(triggers)] == types
        assert plans.execute(rule) == before
        assert plans.execute("SELECT key FROM pgherald.handled WHERE rule = 'bulk'") == [("7",)]
        plans.execute("INSERT INTO app.plans VALUES (%s, 'VE'), (%s, 'PE')", (number, number + 100))
        plans.execute("UPDATE app.plans SET status = 'VE'")
        assert sorted(captured(plans)) == sorted(str(n) for m in range(number + 1) for n in (m, m + 100))
    plans.execute("SELECT pgherald.unwatch('bulk')")
    assert plans.execute(triggers) == []


def test_over_to_it_while_others_write(plans: Database) -> None:
    """No change comes between the two kinds of trigger, and none is captured by both."""
    plans.execute(WATCH, ("row",))
    written = 0
    over = threading.Event()

    def write() -> None:
        nonlocal written
        conn = plans.connect()
        while not over.is_set():
            conn.execute("INSERT INTO app.plans VALUES (%s, 'VE')", (written,))
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for per in ("statement", "row") * 5:
            reached = written + 3
            wait_until(lambda reached=reached: written > reached)
            plans.execute(WATCH, (per,))
    finally:
        over.set()
        writer.join()
    assert sorted(map(int, captured(plans))) == list(range(written))


def test_false_is_not_null(sandbox: Database) -> None:
    sandbox.execute(
        """CREATE TABLE app.plans (id int PRIMARY KEY, status boolean);
           SELECT pgherald.watch('bulk', 'app.plans', becomes => '{f}', capture => 'statement');
           INSERT INTO app.plans VALUES (1, NULL), (2, false), (3, true)"""
    )
    assert captured(sandbox) == ["2"]
    sandbox.execute("UPDATE app.plans SET status = false")
    assert sorted(captured(sandbox)) == ["1", "2", "3"]


def test_a_plan_made_for_one_row_does_for_many(plans: Database) -> None:
    """A session keeps it; a nested loop over a hundred thousand rows would take minutes."""
    plans.execute(WATCH, ("statement",))
    conn = plans.connect(options="-c statement_timeout=20s")
    conn.execute("INSERT INTO app.plans SELECT g, 'VE' FROM generate_series(1, 30000) AS g")
    conn.execute("UPDATE app.plans SET status = 'VE' WHERE id = 1")
    conn.execute("UPDATE app.plans SET status = 'VE'")
    assert len(captured(plans)) == 30000
