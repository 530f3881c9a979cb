"""watch() again, watch() elsewhere, unwatch(); and when they need a lock on the application's table."""

import threading
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import wait_until
from tests.support.database import Database

TABLES = """
    CREATE TABLE app.old (id int PRIMARY KEY, status text, code text NOT NULL);
    CREATE TABLE app.new (id int PRIMARY KEY, status text, code text NOT NULL);
    CREATE TABLE app.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE app.north PARTITION OF app.parted FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.parted FOR VALUES IN ('south');
"""
# Everything in the database that has to do with the rule but its events.
TRACES = """
    SELECT 'trigger', tgname::text FROM pg_trigger WHERE tgname LIKE '%%moving%%'
     UNION ALL SELECT 'function', proname::text FROM pg_proc WHERE proname LIKE '%%moving%%'
     UNION ALL SELECT 'rule', rule FROM pgherald.rule WHERE rule = 'moving'
     UNION ALL SELECT 'handled', key FROM pgherald.handled WHERE rule = 'moving'
"""
OLD = "SELECT pgherald.watch('moving', 'app.old')"


@pytest.fixture
def tables(sandbox: Database) -> Database:
    sandbox.execute(TABLES)
    return sandbox


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


@pytest.mark.parametrize(
    ("move", "writes", "keys"),
    [
        ("'app.new'", "INSERT INTO app.old VALUES (1, 'VE', 'a'); INSERT INTO app.new VALUES (2, 'VE', 'b')", ["2"]),
        ("'app.old', '{code}'", "INSERT INTO app.old VALUES (1, 'VE', 'a')", ["a"]),
        ("'app.old', '{id,code}'", "INSERT INTO app.old VALUES (1, 'VE', 'a')", ["{1,a}"]),
        ("'app.old', '{id}', 'code'", "INSERT INTO app.old VALUES (1, 'VE', 'a'), (2, 'PE', 'VE')", ["2"]),
        ("'app.old', becomes => '{AC}'", "INSERT INTO app.old VALUES (1, 'VE', 'a'), (2, 'AC', 'b')", ["2"]),
        (
            "'app.parted', '{id,region}'",
            """INSERT INTO app.old VALUES (1, 'VE', 'a'); INSERT INTO app.parted VALUES (1, 'north', 'VE');
               UPDATE app.parted SET region = 'south'""",
            ["{1,north}"],
        ),
    ],
)  # fmt: skip
def test_a_rule_that_moves_starts_anew(tables: Database, move: Any, writes: Any, keys: list[str]) -> None:
    tables.execute("INSERT INTO app.old VALUES (7, 'VE', 'x')")
    tables.execute(OLD)
    for _ in range(2):
        tables.execute("CALL pgherald.snapshot_existing('moving')")
    assert tables.execute("SELECT key FROM pgherald.handled") == [("7",)]
    tables.execute(f"SELECT pgherald.watch('moving', {move})")
    assert tables.execute("SELECT snapshot_done, snapshot_position FROM pgherald.rule WHERE rule = 'moving'") == [
        (False, None)
    ]
    assert tables.execute("SELECT key FROM pgherald.handled") == []
    tables.execute(writes)
    assert captured(tables) == keys


def test_back_from_a_partitioned_table(tables: Database) -> None:
    tables.execute("SELECT pgherald.watch('moving', 'app.parted', '{id,region}')")
    tables.execute(OLD)
    tables.execute("INSERT INTO app.parted VALUES (1, 'north', 'VE'); INSERT INTO app.old VALUES (2, 'VE', 'a')")
    tables.execute("DELETE FROM app.old; INSERT INTO app.old VALUES (2, 'VE', 'a')")
    assert captured(tables) == ["2", "2"]


@pytest.mark.parametrize("table", ["'app.old'", "'app.parted', '{id,region}'"])
def test_unwatch_leaves_no_trace_but_the_events(tables: Database, table: Any) -> None:
    tables.execute("INSERT INTO app.old VALUES (7, 'VE', 'x'); INSERT INTO app.parted VALUES (7, 'north', 'VE')")
    tables.execute(f"SELECT pgherald.watch('moving', {table})")
    tables.execute("CALL pgherald.snapshot_existing('moving')")
    assert {what for what, _ in tables.execute(TRACES)} == {"trigger", "function", "rule", "handled"}
    tables.execute("INSERT INTO app.old VALUES (8, 'VE', 'x'); INSERT INTO app.parted VALUES (8, 'north', 'VE')")
    tables.execute("SELECT pgherald.unwatch('moving')")
    assert tables.execute(TRACES) == []
    tables.execute("INSERT INTO app.old VALUES (9, 'VE', 'x'); INSERT INTO app.parted VALUES (9, 'north', 'VE')")
    assert len(captured(tables)) == 1


def test_unwatch_of_nothing_does_nothing(tables: Database) -> None:
    tables.execute("SELECT pgherald.unwatch('moving'), pgherald.unwatch('no such; rule')")
    plan = tables.add_plan("Café", "jane@example.org")
    tables.verify(plan)
    assert captured(tables) == [str(plan)]


def test_one_rule_unwatched_leaves_the_other(tables: Database) -> None:
    tables.execute(OLD)
    tables.execute("SELECT pgherald.watch('moving_too', 'app.old')")
    tables.execute("SELECT pgherald.unwatch('moving')")
    tables.execute("INSERT INTO app.old VALUES (1, 'VE', 'a')")
    assert [(event["rule"], event["key"]) for event in tables.events()] == [("moving_too", "1")]


def test_tables_that_inherit(sandbox: Database) -> None:
    """The server gives them no trigger of their parent's, and an UPDATE of the parent changes their rows."""
    sandbox.execute(
        """CREATE TABLE app.parent (id int NOT NULL, status text); CREATE TABLE app.child () INHERITS (app.parent);
           CREATE TABLE app.grandchild () INHERITS (app.child); INSERT INTO app.parent VALUES (1, 'PE');
           INSERT INTO app.child VALUES (2, 'PE'); INSERT INTO app.grandchild VALUES (3, 'PE')"""
    )
    sandbox.execute("SELECT pgherald.watch('whole', 'app.parent')")
    sandbox.execute("UPDATE app.parent SET status = 'VE'; INSERT INTO app.grandchild VALUES (4, 'VE')")
    assert [event["key"] for event in sandbox.events()] == ["1", "2", "3", "4"]
    sandbox.execute("CREATE TABLE app.later () INHERITS (app.parent); SELECT pgherald.watch('whole', 'app.parent')")
    sandbox.execute("INSERT INTO app.later VALUES (5, 'VE')")
    assert len(sandbox.events()) == 5
    sandbox.execute("SELECT pgherald.unwatch('whole')")
    assert sandbox.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgherald_whole%'") == 0


def test_a_table_dropped_and_made_again(tables: Database) -> None:
    """The triggers went with it; watch() sees that it is another table."""
    tables.execute(OLD)
    tables.execute("DROP TABLE app.old")
    tables.execute("CREATE TABLE app.old (id int PRIMARY KEY, status text)")
    tables.execute(OLD)
    tables.execute("INSERT INTO app.old VALUES (1, 'VE')")
    assert captured(tables) == ["1"]
    tables.execute("DROP TABLE app.old")
    tables.execute("SELECT pgherald.unwatch('moving')")
    assert tables.execute(TRACES) == []


def test_a_table_and_column_renamed_stay_watched(tables: Database) -> None:
    tables.execute(OLD)
    tables.execute("ALTER TABLE app.old RENAME TO older; ALTER TABLE app.older RENAME status TO state")
    tables.execute("INSERT INTO app.older VALUES (1, 'VE', 'a')")
    assert captured(tables) == ["1"]


@pytest.mark.parametrize(
    "harm",
    [
        "ALTER TABLE app.old DISABLE TRIGGER pgherald_moving_update",
        "ALTER TABLE app.old DISABLE TRIGGER USER",
        "ALTER TABLE app.old ENABLE REPLICA TRIGGER pgherald_moving_insert",
        "DROP TRIGGER pgherald_moving_insert ON app.old",
        "CREATE OR REPLACE FUNCTION pgherald.capture_moving() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP FUNCTION pgherald.capture_moving() CASCADE",
        "DELETE FROM pgherald.rule WHERE rule = 'moving'",
    ],
)
def test_watched_again_it_is_whole_again(tables: Database, harm: Any) -> None:
    tables.execute(OLD)
    tables.execute(harm)
    tables.execute(OLD)
    tables.execute("INSERT INTO app.old VALUES (1, 'VE', 'a'), (2, 'PE', 'b'); UPDATE app.old SET status = 'VE'")
    assert captured(tables) == ["1", "2"]
    [row] = tables.execute("SELECT prosecdef FROM pg_proc WHERE proname = 'capture_moving'")
    assert row == (True,)
    assert tables.value("SELECT count(*) FROM pgherald.rule WHERE rule = 'moving'") == 1


@pytest.mark.parametrize("trigger", ["pgherald_moving_delete", "pgherald_moving_end"])
@pytest.mark.parametrize("harm", ["DROP TRIGGER {} ON app.parted", "ALTER TABLE app.parted DISABLE TRIGGER {}"])
def test_a_partitioned_table_too(tables: Database, harm: str, trigger: str) -> None:
    watch = "SELECT pgherald.watch('moving', 'app.parted', '{id,region}')"
    tables.execute(watch)
    tables.execute(harm.format(trigger))
    tables.execute(watch)
    tables.execute("INSERT INTO app.parted VALUES (1, 'north', 'VE'); UPDATE app.parted SET region = 'south'")
    assert captured(tables) == ["{1,north}"]
    tables.execute("DO $$ BEGIN DELETE FROM app.parted; INSERT INTO app.parted VALUES (1, 'north', 'VE'); END $$")
    assert captured(tables) == ["{1,north}", "{1,north}"]


def test_triggers_that_fire_always_stay_so(tables: Database) -> None:
    """A subscriber of logical replication may want its own events."""
    tables.execute(OLD)
    for name in ("update", "insert"):
        tables.execute(f"ALTER TABLE app.old ENABLE ALWAYS TRIGGER pgherald_moving_{name}")
    tables.execute(OLD)
    replica = tables.connect(options="-c session_replication_role=replica")
    replica.execute("INSERT INTO app.old VALUES (1, 'VE', 'a')")
    assert captured(tables) == ["1"]


@pytest.mark.parametrize("table", ["'app.old'", "'app.parted', '{id,region}'"])
def test_the_second_time_it_waits_for_no_writer(tables: Database, table: Any) -> None:
    watch = f"SELECT pgherald.watch('moving', {table})"
    tables.execute(watch)
    writer, dba = tables.connect(), tables.connect(options="-c lock_timeout=1s")
    with writer.transaction():
        writer.execute("INSERT INTO app.old VALUES (1, 'VE', 'a'); INSERT INTO app.parted VALUES (1, 'north', 'VE')")
        dba.execute(watch)
    assert len(captured(tables)) == 1


def test_the_first_time_it_waits_for_writers_so_that_none_is_missed(tables: Database) -> None:
    """A row that got the value before the triggers were there is one that snapshot_existing() sees."""
    writer, dba = tables.connect(), tables.connect(options="-c lock_timeout=100ms")
    with writer.transaction():
        writer.execute("INSERT INTO app.old VALUES (1, 'VE', 'a')")
        with pytest.raises(errors.LockNotAvailable):
            dba.execute(OLD)
    assert tables.execute(TRACES) == []


def test_watch_in_a_transaction_rolled_back(tables: Database) -> None:
    conn: psycopg.Connection[Any] = tables.connect()
    with conn.transaction(force_rollback=True):
        conn.execute(OLD)
    assert tables.execute(TRACES) == []


@pytest.mark.parametrize(
    "late", [OLD, "SELECT pgherald.watch('moving', 'app.new')", "SELECT pgherald.unwatch('moving')"]
)
def test_one_at_a_time(tables: Database, late: str) -> None:
    """Two that make, replace or drop one function at once, and one of them fails."""
    with tables.connect() as first, tables.connect(options="-c lock_timeout=20s") as second:
        first.execute("BEGIN")
        first.execute(OLD)
        failures: list[BaseException] = []

        def come_late() -> None:
            try:
                second.execute(late)  # type: ignore[arg-type]
            except psycopg.Error as exc:
                failures.append(exc)

        thread = threading.Thread(target=come_late)
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        wait_until(lambda: tables.value(waits, (second.info.backend_pid,)))
        first.execute("COMMIT")
        thread.join()
    assert failures == []
    watches = [] if "unwatch" in late else [(late.split("'")[3],)]
    assert tables.execute("SELECT \"table\"::text FROM pgherald.rule WHERE rule = 'moving'") == watches
