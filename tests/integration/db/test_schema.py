"""The checks of the schema name the rule and what to run."""

import asyncio
from typing import Any

import pytest

from listener.config.rules import default_rules
from listener.db.connection import connect, connect_async
from listener.db.schema import capture_problems, check_tables, secret, stored_events, table_remedy, unconfigured, verify
from listener.db.schema_version import VERSION
from listener.errors import SchemaError
from tests.support.database import Database

RULES = default_rules()
[(NAME, RULE)] = RULES.items()


def changed(**changes: Any) -> dict[str, Any]:
    return {NAME: RULE.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (changed(table="public.none"), "there is no table public.none; correct"),
        (changed(column="none"), 'has no column "none"; correct'),
        (changed(key=("id", "none")), 'has no column "none"; correct'),
    ],
)
def test_a_rule_that_does_not_fit_its_table(database: Database, rules: dict[str, Any], message: str) -> None:
    with connect(database.url) as conn:
        check_tables(conn, RULES)
        with pytest.raises(SchemaError, match=f"rule {NAME}: .*{message}"):
            check_tables(conn, rules)


def verified(database: Database, rules: dict[str, Any]) -> int:
    async def call() -> int:
        async with await connect_async(database.url) as conn:
            version = await verify(conn, rules)
            assert len(await secret(conn)) == 32
            return version.number

    return asyncio.run(call())


def test_what_is_watched_as_configured_is_verified(database: Database) -> None:
    assert verified(database, RULES) == VERSION


@pytest.mark.parametrize(
    ("statement", "rules", "message"),
    [
        ("SELECT", {"paid": RULE}, "rule paid is not watched in this database; run `pgherald install`"),
        (
            "SELECT",
            changed(becomes=("XX",)),
            r"the database watches public\.dateplan\.status = 'VE', not what is configured",
        ),
        ("ALTER TABLE public.dateplan DISABLE TRIGGER pgherald_dateplan_verified_update", RULES, "missing or disabled"),
        ("DELETE FROM pgherald.secret", RULES, "pgherald.secret is empty; run `pgherald install`"),
        ("DROP SCHEMA pgherald CASCADE", RULES, "run `pgherald install`"),
    ],
)
def test_what_is_not_is_refused(database: Database, statement: Any, rules: dict[str, Any], message: str) -> None:
    database.execute(statement)
    with pytest.raises(SchemaError, match=message):
        verified(database, rules)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ALTER TABLE public.dateplan RENAME TO old; CREATE TABLE public.dateplan (LIKE old)", "watches public.old"),
        ("DROP TABLE public.dateplan", "there is no table public.dateplan"),
        ("ALTER TABLE public.dateplan DISABLE TRIGGER USER", "missing or disabled"),
        ("DROP TRIGGER pgherald_dateplan_verified_insert ON public.dateplan", "missing or disabled"),
        ("ALTER TABLE public.dateplan DROP COLUMN status CASCADE", "missing or disabled"),
        ("ALTER TABLE public.dateplan DROP COLUMN id CASCADE", "public.dateplan no longer has column id"),
        ("ALTER TABLE public.dateplan RENAME id TO number", "public.dateplan no longer has column id"),
        ("DROP FUNCTION pgherald.capture_dateplan_verified CASCADE", "missing or disabled"),
        ("DELETE FROM pgherald.rule", "is not watched in this database"),
        ("DROP SCHEMA pgherald CASCADE", "pgherald is not installed in this database"),
        (
            """CREATE FUNCTION public.other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
               CREATE OR REPLACE TRIGGER pgherald_dateplan_verified_insert AFTER INSERT ON public.dateplan
                   FOR EACH ROW EXECUTE FUNCTION public.other()""",
            "missing or disabled",
        ),
        (
            "ALTER FUNCTION pgherald.capture_dateplan_verified() OWNER TO pg_monitor",
            "GRANT USAGE ON SCHEMA pgherald TO pg_monitor",
        ),
        (
            """GRANT USAGE ON SCHEMA pgherald TO pg_monitor;
               ALTER FUNCTION pgherald.capture_dateplan_verified() OWNER TO pg_monitor""",
            "GRANT INSERT ON pgherald.inbox TO pg_monitor",
        ),
    ],
)
def test_each_way_in_which_capture_stops_has_its_reason(database: Database, statement: Any, reason: str) -> None:
    """Nobody sees that an event is missing, so the daemon must say it."""
    assert problems(database, RULES) == {}
    database.execute(statement)
    found = problems(database, RULES)
    assert list(found) == [NAME]
    assert reason in found[NAME]


def test_a_disabled_trigger_of_one_partition_is_seen(database: Database) -> None:
    database.execute(
        """CREATE TABLE public.visit (id bigint, state text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
           CREATE TABLE public.visit_1 PARTITION OF public.visit FOR VALUES FROM (1) TO (100);
           SELECT pgherald.watch('visited', 'public.visit', "column" => 'state', becomes => '{done}')"""
    )
    rules = {
        "visited": RULE.model_copy(update={"table": "public.visit", "column": "state", "becomes": ("done",)}),
        **RULES,
    }
    assert problems(database, rules) == {}
    database.execute("ALTER TABLE public.visit_1 DISABLE TRIGGER pgherald_visited_update")
    database.execute("DELETE FROM pgherald.rule WHERE rule = 'dateplan_verified'")
    assert list(problems(database, rules)) == ["visited", NAME]
    assert "public.visit_1 are disabled" in problems(database, rules)["visited"]
    with pytest.raises(SchemaError, match=r"visited: .*; .*rule dateplan_verified is not watched"):
        verified(database, rules)


def problems(database: Database, rules: dict[str, Any]) -> dict[str, str]:
    async def call() -> dict[str, str]:
        async with await connect_async(database.url) as conn:
            return await capture_problems(conn, rules)

    return asyncio.run(call())


def test_what_uninstall_would_lose_and_what_nobody_delivers(database: Database, bare_database: Database) -> None:
    database.verify(database.add_plan("Café", "jane@example.org"))
    with connect(database.url) as conn:
        assert stored_events(conn) == (1, 1)
        assert (unconfigured(conn, RULES), unconfigured(conn, {})) == ([], [NAME])
    with connect(bare_database.url) as conn:
        assert stored_events(conn) is None


def test_the_remedy_for_the_example_rule_is_init() -> None:
    assert "pgherald init" in table_remedy(NAME, RULE)
    assert table_remedy("paid", RULE) == "correct [rules.paid]"
