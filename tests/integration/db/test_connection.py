"""Sessions whose names and policies nobody else controls."""

import psycopg
import pytest
from psycopg import sql

from listener.db.connection import connect, connect_async, parameters, refuse_standby
from listener.db.pools import lookup_pool, opened, outbox_pool, overview_pool, statement_pool
from listener.errors import ConfigError, DatabaseUnavailable
from tests.support.database import Database

SETTINGS = "SELECT current_setting('search_path'), current_setting('row_security')"


def test_the_path_and_row_security_are_pinned(database: Database) -> None:
    database.execute("ALTER DATABASE {} SET search_path = public".format(database.value("SELECT current_database()")))  # type: ignore[arg-type]
    with connect(database.url) as conn:
        assert conn.execute(SETTINGS).fetchone() == ("pg_catalog, pg_temp", "off")
        assert (conn.autocommit, conn.prepare_threshold) == (True, None)


@pytest.mark.parametrize("default", ["serializable", "repeatable read"])
async def test_every_session_reads_what_is_committed(database: Database, default: str) -> None:
    """Another level would make transactions fail that touch the same rows, those of the application too."""
    name = sql.Identifier(database.value("SELECT current_database()"))
    database.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}").format(name, sql.Literal(default))
    )
    level = "SELECT current_setting('transaction_isolation')"
    with connect(database.url) as conn:
        assert conn.execute(level).fetchone() == ("read committed",)
    async with await connect_async(database.url) as alone:
        assert await (await alone.execute(level)).fetchone() == ("read committed",)
    for make in (outbox_pool, lookup_pool, statement_pool, overview_pool):
        pool = make(database.url)
        async with opened(pool), pool.connection() as lent:
            assert await (await lent.execute(level)).fetchone() == ("read committed",)


async def test_a_session_for_asyncio_is_pinned_too(database: Database) -> None:
    async with await connect_async(database.url) as conn:
        assert await (await conn.execute(SETTINGS)).fetchone() == ("pg_catalog, pg_temp", "off")
        await refuse_standby(conn)


def test_what_the_url_sets_wins_but_for_the_encoding() -> None:
    given = parameters("postgresql://h/d?connect_timeout=3&client_encoding=LATIN1")
    assert (given["connect_timeout"], given["client_encoding"]) == ("3", "UTF8")
    assert parameters("", application_name="x")["application_name"] == "x"
    with pytest.raises(ConfigError, match="is not a connection string"):
        parameters("postgresql://[")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        connect("postgresql://127.0.0.1:1/none")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
