"""The outbox's size in `status`: for one table, for partitions at any depth, and with inheritance."""

from typing import Any, LiteralString

import pytest
from psycopg.rows import dict_row

from listener.db.queries import load
from tests.support.database import Database

_TABLE: LiteralString = "CREATE TABLE pgherald.outbox (id bigint, body text, CONSTRAINT outbox_pkey PRIMARY KEY (id)) PARTITION BY RANGE (id);"
_FIRST: LiteralString = (
    "CREATE TABLE pgherald.outbox_1 PARTITION OF pgherald.outbox FOR VALUES FROM (MINVALUE) TO (50);"
)
_REST: LiteralString = "CREATE TABLE pgherald.outbox_rest PARTITION OF pgherald.outbox DEFAULT;"
# How the outbox is made, and the tables that hold its rows.
KINDS: dict[str, tuple[LiteralString, list[str]]] = {
    "whole": ("CREATE TABLE pgherald.outbox (id bigint PRIMARY KEY, body text)", ["outbox"]),
    "partitions": (_TABLE + _FIRST + _REST, ["outbox_1", "outbox_rest"]),
    "partitions of partitions": (
        _TABLE
        + _REST
        + """CREATE TABLE pgherald.outbox_1 PARTITION OF pgherald.outbox FOR VALUES FROM (MINVALUE) TO (50) PARTITION BY RANGE (id);
             CREATE TABLE pgherald.outbox_1_a PARTITION OF pgherald.outbox_1 FOR VALUES FROM (MINVALUE) TO (25) PARTITION BY RANGE (id);
             CREATE TABLE pgherald.outbox_1_a_i PARTITION OF pgherald.outbox_1_a DEFAULT;
             CREATE TABLE pgherald.outbox_1_b PARTITION OF pgherald.outbox_1 DEFAULT""",
        ["outbox_1_a_i", "outbox_1_b", "outbox_rest"],
    ),
    "inherited from": (
        """CREATE TABLE pgherald.outbox (id bigint PRIMARY KEY, body text);
           CREATE TABLE pgherald.old (PRIMARY KEY (id)) INHERITS (pgherald.outbox);
           CREATE TABLE pgherald.older (PRIMARY KEY (id)) INHERITS (pgherald.old);
           INSERT INTO pgherald.older SELECT i, 'x' FROM generate_series(1001, 1100) AS i""",
        ["outbox", "old", "older"],
    ),
}


def outbox_size(database: Database) -> dict[str, Any]:
    [row] = database.connect(row_factory=dict_row).execute(load("admin")["outbox_size"]).fetchall()
    return dict(row)


def disk(database: Database, tables: list[str]) -> int:
    return int(
        database.value(
            "SELECT sum(pg_total_relation_size(format('pgherald.%%I', name)::regclass)) FROM unnest(%s::text[]) AS name",
            (tables,),
        )
    )


@pytest.fixture
def made(bare_database: Database, request: pytest.FixtureRequest) -> tuple[Database, list[str]]:
    definition, tables = KINDS[request.param]
    bare_database.execute("CREATE SCHEMA pgherald; CREATE TABLE pgherald.inbox ()")
    bare_database.connect().execute(definition)
    bare_database.execute(
        "INSERT INTO pgherald.outbox SELECT i, repeat('x', i % 100) FROM generate_series(1, 100) AS i"
    )
    return bare_database, tables


@pytest.mark.parametrize("made", KINDS, indirect=True)
@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed"])
def test_every_table_counts_once(made: tuple[Database, list[str]], analyzed: bool) -> None:
    database, tables = made
    database.execute("DELETE FROM pgherald.outbox WHERE id % 10 = 0")
    database.execute("SELECT pg_stat_force_next_flush()")
    if analyzed:
        database.execute("ANALYZE pgherald.outbox")
    found = outbox_size(database)
    assert found.pop("size").endswith((" bytes", " kB"))
    dead = 20 if tables[-1] == "older" else 10
    assert found == {"bytes": disk(database, tables), "dead_rows": dead}


@pytest.mark.parametrize("made", ["partitions"], indirect=True)
def test_a_detached_partition_counts_no_more(made: tuple[Database, list[str]]) -> None:
    database, [detached, rest] = made
    database.execute("ALTER TABLE pgherald.outbox DETACH PARTITION pgherald.outbox_rest")
    assert detached == "outbox_1"
    assert outbox_size(database)["bytes"] == disk(database, [detached])
    assert disk(database, [rest]) > 0


@pytest.mark.parametrize("made", ["partitions"], indirect=True)
def test_nor_does_one_whose_detaching_was_interrupted(made: tuple[Database, list[str]]) -> None:
    """DETACH CONCURRENTLY waits for older transactions; ended while it waits, it leaves the partition marked."""
    database, [kept, _] = made
    database.execute("DROP TABLE pgherald.outbox_rest")
    database.execute("CREATE TABLE pgherald.outbox_2 PARTITION OF pgherald.outbox FOR VALUES FROM (50) TO (100)")
    with database.connect() as older:
        older.execute("BEGIN; SELECT FROM pgherald.outbox LIMIT 1")
        detaching = database.connect(options="-c statement_timeout=500ms")
        with pytest.raises(Exception, match="statement timeout"):
            detaching.execute("ALTER TABLE pgherald.outbox DETACH PARTITION pgherald.outbox_2 CONCURRENTLY")
    assert database.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
    assert outbox_size(database)["bytes"] == disk(database, [kept])
