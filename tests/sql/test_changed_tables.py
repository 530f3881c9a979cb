"""The application changes a watched table while its sessions are open: its writes do not fail, and what they do is captured."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support.database import Database

Session = psycopg.Connection[Any]

TABLES = """
    CREATE TABLE app.orders (id int PRIMARY KEY, status text, note text);
    CREATE TABLE app.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE app.north PARTITION OF app.parted FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.parted FOR VALUES IN ('south');
"""
CHANGES = {
    "wider": "ALTER TABLE {table} ALTER id TYPE bigint",
    "another type": "ALTER TABLE {table} ALTER id TYPE text",
    "wider, and back": "ALTER TABLE {table} ALTER id TYPE bigint; ALTER TABLE {table} ALTER id TYPE int",
    "swapped by name": "ALTER TABLE {table} ADD id_new bigint; UPDATE {table} SET id_new = id;"
    "ALTER TABLE {table} RENAME id TO id_old; ALTER TABLE {table} RENAME id_new TO id;"
    "ALTER TABLE {table} ALTER id_old SET DEFAULT (random() * 1000000)::int + 100000",
    "a column before it": "ALTER TABLE {table} DROP COLUMN IF EXISTS note; ALTER TABLE {table} ADD note int",
}


@pytest.fixture(params=["row", "statement", "partitioned"])
def table(sandbox: Database, request: pytest.FixtureRequest) -> str:
    """A watched table, captured in each of the three ways."""
    sandbox.execute(TABLES)
    if request.param == "partitioned":
        sandbox.execute("SELECT pgherald.watch('orders', 'app.parted', '{id,region}')")
        return "app.parted"
    sandbox.execute("SELECT pgherald.watch('orders', 'app.orders', capture => %s)", (request.param,))
    return "app.orders"


def writes(conn: Session, table: str, number: int) -> None:
    """Write one row that gets the value, one that is inserted with it, and one that moves with it if it can."""
    region = "region" if table == "app.parted" else "note"
    columns = f"(id, {region}, status)" if region == "region" else "(id, status)"
    first = ", 'north', 'PE'" if region == "region" else ", 'PE'"
    second = ", 'north', 'VE'" if region == "region" else ", 'VE'"
    conn.execute(f"INSERT INTO {table} {columns} VALUES ({number}{first})")
    conn.execute(f"UPDATE {table} SET status = 'VE' WHERE id::text = '{number}'")
    conn.execute(f"INSERT INTO {table} {columns} VALUES ({number + 1}{second})")
    if region == "region":
        conn.execute(f"UPDATE {table} SET region = 'south' WHERE id::text = '{number + 1}'")


def captured(database: Database) -> list[str]:
    return sorted(event["key"].strip("{}").partition(",")[0] for event in database.events())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_key_column_changes_under_open_sessions(sandbox: Database, table: str, change: str) -> None:
    """Before, each open session's writes failed: type of parameter 14 does not match that when preparing the plan."""
    sessions = [sandbox.connect() for _ in range(2)]
    for number, session in enumerate(sessions):
        # plpgsql keeps a generic plan from the first call on.
        for time in range(8):
            writes(session, table, 1000 * number + 10 * time)
    sandbox.execute("DELETE FROM pgherald.outbox")
    sandbox.execute(sql.SQL(change).format(table=sql.SQL(table)).as_string(None))  # type: ignore[arg-type]
    sandbox.execute("DELETE FROM pgherald.outbox")
    expected = []
    for number, session in enumerate(sessions):
        for time in range(8):
            base = 5000 + 1000 * number + 10 * time
            writes(session, table, base)
            expected += [str(base), str(base + 1)]
    writes(sandbox.connect(), table, 9000)
    assert captured(sandbox) == sorted([*expected, "9000", "9001"])


@pytest.mark.parametrize(
    "change",
    [
        lambda table: f"ALTER TABLE {table} RENAME id TO number",
        lambda table: f"ALTER TABLE {table} DROP COLUMN id CASCADE",
    ],
    ids=["renamed", "dropped"],
)
def test_a_key_column_that_is_gone_fails_no_write(sandbox: Database, table: str, change: Callable[[str], str]) -> None:
    session = sandbox.connect()
    writes(session, table, 10)
    sandbox.execute("DELETE FROM pgherald.outbox")
    session.execute(change(table))
    for conn in (session, sandbox.connect()):
        conn.execute(f"UPDATE {table} SET status = 'PE'")
        conn.execute(f"UPDATE {table} SET status = 'VE'")
        conn.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE false")
        if table == "app.parted":
            conn.execute(f"UPDATE {table} SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END")
        conn.execute(f"DELETE FROM {table} WHERE false")
    assert captured(sandbox) == []


@pytest.mark.parametrize("how", ["row", "statement"])
def test_the_watched_column_is_renamed(sandbox: Database, how: str) -> None:
    """A trigger's WHEN follows the name. Per statement nothing is captured until the rule is watched again."""
    sandbox.execute(TABLES)
    sandbox.execute("SELECT pgherald.watch('orders', 'app.orders', capture => %s)", (how,))
    session = sandbox.connect()
    session.execute("INSERT INTO app.orders VALUES (1, 'VE')")
    sandbox.execute("ALTER TABLE app.orders RENAME status TO state")
    session.execute("INSERT INTO app.orders VALUES (2, 'VE')")
    sandbox.connect().execute("INSERT INTO app.orders VALUES (3, 'VE')")
    assert captured(sandbox) == (["1", "2", "3"] if how == "row" else ["1"])
    sandbox.execute("SELECT pgherald.rewatch('orders', 'app.orders', '{id}', 'state', capture => %s)", (how,))
    session.execute("INSERT INTO app.orders VALUES (4, 'VE')")
    assert captured(sandbox)[-1] == "4"
