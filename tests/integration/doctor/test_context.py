"""Transactions of checks: read-only, impatient, and without traces in the next one."""

import psycopg
import pytest

from listener.config.settings import Settings
from listener.db.schema_version import VERSION, SchemaVersion
from listener.doctor.context import Context
from listener.doctor.result import NotChecked
from tests.support.database import Database


async def connected(database: Database) -> Context:
    return Context(Settings(), conn=await psycopg.AsyncConnection.connect(database.url, autocommit=True))


async def test_a_check_cannot_write_and_leaves_nothing_behind(database: Database) -> None:
    context = await connected(database)
    assert context.conn is not None
    async with context.conn:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await context.rows("DELETE FROM pgherald.outbox")
        assert await context.row("SELECT current_setting('statement_timeout') AS value") == {"value": "5s"}
        row = await (await context.conn.execute("SELECT current_setting('statement_timeout')")).fetchone()
        assert row == ("0",)


async def test_a_lookups_transaction_is_rolled_back(database: Database) -> None:
    context = await connected(database)
    assert context.conn is not None
    async with context.conn:
        async with context.lookup_transaction() as conn:
            await conn.execute("INSERT INTO public.plan (place) VALUES ('left behind')")
        assert await context.rows("SELECT place FROM public.plan WHERE place = 'left behind'") == []


async def test_without_a_connection_nothing_is_checked() -> None:
    context = Context(Settings())
    context.require_schema()
    with pytest.raises(NotChecked, match="no connection"):
        await context.rows("SELECT 1")
    with pytest.raises(NotChecked, match="no connection"):
        async with context.lookup_transaction():
            pytest.fail("there is one")


async def test_the_schema_must_be_installed_and_of_this_version(database: Database) -> None:
    context = await connected(database)
    assert context.conn is not None
    async with context.conn:
        context.version = SchemaVersion(VERSION, VERSION)
        context.require_schema()
        context.version = SchemaVersion(VERSION + 1, VERSION + 1)
        with pytest.raises(NotChecked, match="cannot use"):
            context.require_schema()
        context.installed = False
        with pytest.raises(NotChecked, match="not installed"):
            context.require_schema()
