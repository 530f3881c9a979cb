"""Transactions of checks: read-only, impatient, and without traces in the next one."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from listener.config.rules import default_rules
from listener.config.sections import Database as DatabaseSection
from listener.config.settings import Settings
from listener.db.schema_version import VERSION, SchemaVersion
from listener.doctor.context import Context
from listener.doctor.result import NotChecked
from listener.errors import RuleBroken
from tests.support.database import Database


@pytest.fixture
async def context(database: Database) -> AsyncIterator[Context]:
    context = Context(Settings(database=DatabaseSection(url=database.url)), user="postgres")
    yield context
    await context.close()


async def test_a_check_cannot_write_and_leaves_nothing_behind(context: Context) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await context.rows("DELETE FROM pgherald.outbox")
    assert await context.row("SELECT current_setting('statement_timeout') AS value") == {"value": "5s"}
    async with context.lookup_transaction() as conn:
        await conn.execute("SET LOCAL statement_timeout = '1s'")
    assert await context.row("SELECT current_setting('statement_timeout') AS value") == {"value": "5s"}


async def test_a_lookups_transaction_is_rolled_back(context: Context) -> None:
    async with context.lookup_transaction() as conn:
        await conn.execute("INSERT INTO public.plan (place) VALUES ('left behind')")
    assert await context.rows("SELECT place FROM public.plan WHERE place = 'left behind'") == []


async def test_without_a_connection_nothing_is_checked() -> None:
    context = Context(Settings())
    with pytest.raises(NotChecked, match="no connection"):
        context.require_schema()
    with pytest.raises(NotChecked, match="no connection"):
        await context.rows("SELECT 1")
    with pytest.raises(NotChecked, match="no connection"):
        async with context.lookup_transaction():
            pytest.fail("there is one")


async def test_the_schema_must_be_installed_and_of_this_version(context: Context) -> None:
    context.version = SchemaVersion(VERSION, VERSION)
    context.require_schema()
    context.version = SchemaVersion(VERSION + 1, VERSION)
    context.require_schema()
    context.version = SchemaVersion(VERSION + 1, VERSION + 1)
    with pytest.raises(NotChecked, match="version"):
        context.require_schema()
    context.installed = False
    with pytest.raises(NotChecked, match="not installed"):
        context.require_schema()


async def test_rules_of_the_same_table_read_its_types_once(context: Context) -> None:
    [rule] = default_rules().values()
    types = await context.column_types(rule)
    assert (types["id"].name, types["status"].name) == ("bigint", "text")
    assert await context.column_types(rule.model_copy(update={"becomes": "PE"})) is types
    other = rule.model_copy(update={"column": "plan_id"})
    assert set(await context.column_types(other)) == {"id", "plan_id"}


async def test_rules_with_the_same_template_compile_it_once() -> None:
    context = Context(Settings())
    assert context.templates("dateplan_verified") is context.templates("dateplan_verified")
    for _ in range(2):
        with pytest.raises(RuleBroken):
            context.templates("gone")
