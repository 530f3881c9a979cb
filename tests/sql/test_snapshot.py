"""The snapshot of rows in the value before the rule: all of them, page by page, and none that has an event."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import wait_until
from tests.support.database import Database

RULE = "remembering"


@pytest.fixture
def plans(sandbox: Database) -> Database:
    """Of 1 to 30 the even ones are verified."""
    sandbox.execute(
        """CREATE TABLE app.plans (id int PRIMARY KEY, status text);
           INSERT INTO app.plans SELECT g, CASE g %% 2 WHEN 0 THEN 'VE' ELSE 'PE' END FROM generate_series(1, 30) AS g;
           SELECT pgherald.watch('remembering', 'app.plans')""".replace("%%", "%")
    )
    return sandbox


def remember(database: Database, batch: int) -> bool:
    return bool(database.value("CALL pgherald.snapshot_existing(%s, %s)", (RULE, batch)))


def handled(database: Database) -> list[str]:
    return [
        key
        for (key,) in database.execute(
            "SELECT key FROM pgherald.handled WHERE rule = %s ORDER BY length(key), key", (RULE,)
        )
    ]


EVEN = [str(number) for number in range(2, 31, 2)]


@pytest.mark.parametrize(("batch", "pages"), [(1, 16), (4, 4), (5, 4), (14, 2), (15, 2), (16, 1), (10_000, 1)])
def test_page_by_page(plans: Database, batch: int, pages: int) -> None:
    for page in range(1, pages + 1):
        assert remember(plans, batch) is (page < pages)
        assert handled(plans) == EVEN[: page * batch]
    assert plans.execute("SELECT snapshot_done, snapshot_position FROM pgherald.rule WHERE rule = %s", (RULE,)) == [
        (True, None)
    ]
    assert plans.events() == []


def test_once_is_enough(plans: Database) -> None:
    assert not remember(plans, 100)
    plans.execute("DELETE FROM pgherald.handled")
    assert not remember(plans, 100)
    assert handled(plans) == []


def test_a_rule_that_is_not_watched(plans: Database) -> None:
    assert plans.value("CALL pgherald.snapshot_existing('nothing')") is False
    assert handled(plans) == []


def test_rows_that_get_the_value_meanwhile_have_an_event_and_are_not_remembered(plans: Database) -> None:
    """Before the first page, between pages, and not yet committed: in front of it and behind it."""
    writer = plans.connect()
    plans.execute("UPDATE app.plans SET status = 'VE' WHERE id = 1")
    assert remember(plans, 5)
    plans.execute(
        "UPDATE app.plans SET status = 'VE' WHERE id IN (3, 25); INSERT INTO app.plans VALUES (0, 'VE'), (31, 'VE')"
    )
    plans.execute("UPDATE app.plans SET status = 'PE' WHERE id IN (4, 28); DELETE FROM app.plans WHERE id IN (6, 30)")
    with writer.transaction():
        writer.execute("UPDATE app.plans SET status = 'VE' WHERE id IN (5, 27)")
        while remember(plans, 5):
            pass
    # 4 and 6 were in the value when they were seen. 28 and 30 had left it by then.
    assert handled(plans) == [key for key in EVEN if key not in ("28", "30")]
    assert sorted(event["key"] for event in plans.events()) == ["0", "1", "25", "27", "3", "31", "5"]


def test_a_row_that_comes_back_has_an_event(plans: Database) -> None:
    """It left the value and came back before its page: it has an event, and that is what counts."""
    plans.execute("UPDATE app.plans SET status = 'PE' WHERE id = 28; UPDATE app.plans SET status = 'VE' WHERE id = 28")
    while remember(plans, 5):
        pass
    assert "28" not in handled(plans)


def test_where_rows_are_hidden_it_fails(plans: Database) -> None:
    """Backfill would capture a row that the snapshot does not see."""
    plans.execute(
        """ALTER TABLE app.plans ENABLE ROW LEVEL SECURITY;
           GRANT USAGE ON SCHEMA app, pgherald TO pg_monitor; GRANT ALL ON ALL TABLES IN SCHEMA app, pgherald TO pg_monitor;
           GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgherald TO pg_monitor"""
    )
    conn = plans.connect()
    conn.execute("SET ROLE pg_monitor")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        conn.execute("CALL pgherald.snapshot_existing(%s)", (RULE,))
    assert handled(plans) == []


def test_in_a_transaction_of_the_caller_it_refuses_and_nothing_is_kept(plans: Database) -> None:
    conn = plans.connect()
    with pytest.raises(errors.InvalidTransactionTermination), conn.transaction():
        conn.execute("CALL pgherald.snapshot_existing(%s, 5)", (RULE,))
    assert handled(plans) == []
    assert remember(plans, 5)
    assert handled(plans) == EVEN[:5]


def test_it_holds_up_no_writer_and_waits_for_none(plans: Database) -> None:
    dba, writer = plans.connect(options="-c lock_timeout=1s"), plans.connect(options="-c lock_timeout=1s")
    with writer.transaction():
        writer.execute("UPDATE app.plans SET status = 'VE'")
        dba.execute("CALL pgherald.snapshot_existing(%s, 5)", (RULE,))
        plans.execute("INSERT INTO app.plans VALUES (40, 'VE')")
    assert handled(plans) == EVEN[:5]


def test_two_at_once_share_the_pages(plans: Database) -> None:
    """One that finds its page written by the other goes on behind it."""

    def some(conn: psycopg.Connection[Any]) -> None:
        for _ in range(8):
            conn.execute("CALL pgherald.snapshot_existing(%s, 1)", (RULE,))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(some, plans.connect()) for _ in range(2)]:
            done.result()
    while remember(plans, 1):
        pass
    assert handled(plans) == EVEN


def test_a_rule_that_moved_meanwhile_keeps_nothing_of_the_page(plans: Database) -> None:
    plans.execute("CREATE TABLE app.others (id int PRIMARY KEY, status text)")
    conn, other = plans.connect(), plans.connect()
    with ThreadPoolExecutor(1) as pool:
        with conn.transaction():
            # The page waits for this transaction before it is written.
            conn.execute("SELECT FROM pgherald.rule FOR UPDATE")
            more = pool.submit(lambda: other.execute("CALL pgherald.snapshot_existing(%s)", (RULE,)).fetchone())
            wait_until(lambda: plans.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
            conn.execute("SELECT pgherald.watch('remembering', 'app.others')")
        assert more.result() == (True,)
    assert handled(plans) == []
    assert not remember(plans, 100)


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
@pytest.mark.parametrize(
    ("columns", "key", "rows"),
    [
        ("a int, b text, PRIMARY KEY (a, b)", "{a,b}", [(a, b) for a in (1, 2, 10) for b in ("", "NULL", "a,b", 'q"', "z")]),
        ("b text, a int, PRIMARY KEY (a, b)", "{b,a}", [(b, a) for a in (1, 2, 10) for b in ("x", "É", "e", "Z", "a")]),
        ("a text PRIMARY KEY, b int", "{a}", [(a, 0) for a in ("", " ", "a", "A", "é", "10", "9", "\\", "'", '"', "{}", "NULL")]),
        ("a char(3) PRIMARY KEY, b int", "{a}", [(a, 0) for a in ("", "a", "ab", "abc", "z")]),
        ("a boolean, b smallint, PRIMARY KEY (a, b)", "{a,b}", [(a, b) for a in (False, True) for b in (-1, 0, 10, 9)]),
    ],
)  # fmt: skip
def test_keys_of_any_kind(sandbox: Database, batch: int, columns: str, key: str, rows: list[tuple[Any, Any]]) -> None:
    """The same keys as the events that these rows would have had."""
    sandbox.execute(f"CREATE TABLE app.plans ({columns}, status text DEFAULT 'VE')")
    for row in rows:
        sandbox.execute("INSERT INTO app.plans VALUES (%s, %s)", row)
    sandbox.execute("SELECT pgherald.watch(%s, 'app.plans', %s)", (RULE, key))
    for _ in range(len(rows) // batch):
        assert remember(sandbox, batch)
    assert not remember(sandbox, batch)
    found = handled(sandbox)
    assert len(found) == len(rows)
    sandbox.execute(
        "DELETE FROM pgherald.handled; UPDATE app.plans SET status = 'PE'; UPDATE app.plans SET status = 'VE'"
    )
    assert sorted(found) == sorted(event["key"] for event in sandbox.events())
