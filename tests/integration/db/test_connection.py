"""Sessions whose names and policies nobody else controls."""

import psycopg
import pytest

from listener.db.connection import connect, connect_async, is_pooled, is_shared, parameters, refuse_standby
from listener.errors import ConfigError, DatabaseUnavailable
from tests.support.database import Database

SETTINGS = "SELECT current_setting('search_path'), current_setting('row_security')"


def test_the_path_and_row_security_are_pinned(database: Database) -> None:
    database.execute("ALTER DATABASE {} SET search_path = public".format(database.value("SELECT current_database()")))  # type: ignore[arg-type]
    with connect(database.url) as conn:
        assert conn.execute(SETTINGS).fetchone() == ("pg_catalog, pg_temp", "off")
        assert (conn.autocommit, conn.prepare_threshold) == (True, None)


async def test_a_direct_session_is_neither_pooled_nor_shared(database: Database) -> None:
    async with await connect_async(database.url) as conn:
        assert await (await conn.execute(SETTINGS)).fetchone() == ("pg_catalog, pg_temp", "off")
        assert not await is_pooled(conn)
        assert not await is_shared(conn, database.url)
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
