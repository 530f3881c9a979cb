"""A row's value is compared by the server when its email is sent, as at the capture."""

from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.config.rules import Rule
from listener.db.pools import lookup_pool, opened
from listener.errors import RuleBroken
from listener.worker.lookup import Lookup
from tests.support import repeats
from tests.support.database import Database

CASELESS = "CREATE COLLATION app.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
PREPARE: dict[str, LiteralString] = {
    "app.citext": "CREATE EXTENSION citext SCHEMA app",
    "app.status": "CREATE EXTENSION citext SCHEMA app; CREATE DOMAIN app.status AS app.citext",
    "text COLLATE app.caseless": CASELESS,
    "varchar(9) COLLATE app.caseless": CASELESS,
    "app.kind": "CREATE TYPE app.kind AS ENUM ('PE', 'VE', '100%s')",
    "app.kind_domain": "CREATE TYPE app.kind AS ENUM ('PE', 'VE'); CREATE DOMAIN app.kind_domain AS app.kind",
}
# The column's type, the rule's value, the row's value, and whether it is that value.
CASES = [
    ("app.citext", "VE", "ve", True),
    ("app.citext", "VE", "pe", False),
    ("app.status", "VE", "Ve", True),
    ("text COLLATE app.caseless", "VE", "ve", True),
    ("text COLLATE app.caseless", "VE", "vx", False),
    ("varchar(9) COLLATE app.caseless", "VE", "ve", True),
    ("text", "VE", "VE", True),
    ("text", "VE", "ve", False),
    ("text", "100%s", "100%s", True),
    ("varchar(4)", "VE", "VE", True),
    ("char(6)", "VE", "VE", True),
    ("app.kind", "VE", "VE", True),
    ("app.kind", "VE", "PE", False),
    ("app.kind", "100%s", "100%s", True),
    ("app.kind_domain", "VE", "VE", True),
    ("integer", "05", "5", True),
    ("integer", "5", "50", False),
    ("numeric(6,2)", "5", "5.00", True),
    ("boolean", "t", "true", True),
    ("boolean", "true", "false", False),
    ("date", "2026-02-14", "20260214", True),
    ("timestamptz", "2026-02-14 12:00:00+00", "2026-02-14 14:00:00+02", True),
    ("text[]", "{VE}", "{VE}", True),
    ("jsonb", '{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
]


def make(database: Database, type_: str, value: str) -> None:
    try:
        database.execute(PREPARE.get(type_, "SELECT"))
    except psycopg.errors.FeatureNotSupported as exc:
        pytest.skip(f"this server's build: {exc.diag.message_primary}")
    database.execute(
        sql.SQL("CREATE TABLE app.plans (id int PRIMARY KEY, status {}); INSERT INTO app.plans VALUES (1, {})")
        .format(sql.SQL(type_), sql.Literal(value))  # type: ignore[arg-type]
        .as_string(None)  # type: ignore[arg-type]
    )


def rule(becomes: str, current: str) -> Rule:
    lookup = f"SELECT t.id AS key, {current} AS current, 'a@example.org' AS email, true AS consent FROM app.plans AS t WHERE t.id = ANY (%(keys)s::int[])"
    return Rule.model_validate(
        {"table": "app.plans", "becomes": becomes, "lookup": lookup, "template": "dateplan_verified", "require": []}
    )


async def is_reverted(database: Database, rule: Rule, **settings: Any) -> bool:
    pool = lookup_pool(database.url)
    async with opened(pool):
        found = await Lookup("plans", rule, **settings).rows(pool, ["1"])
    assert len(found.rows["1"]) == 1
    return set(found.reverted) == {"1"}


@pytest.mark.parametrize("current", ["t.status", repeats("t.status::text")])
@pytest.mark.parametrize(("type_", "becomes", "value", "same"), CASES)
async def test_a_value_is_what_the_trigger_takes_for_it(
    sandbox: Database, type_: str, becomes: str, value: str, same: bool, current: str
) -> None:
    make(sandbox, type_, value)
    sandbox.execute("SELECT pgherald.watch('plans', 'app.plans', becomes => ARRAY[%s])", (becomes,))
    sandbox.execute("INSERT INTO app.plans SELECT 2, status FROM app.plans")
    assert [event["key"] for event in sandbox.events()] == (["2"] if same else []), "captured"
    assert await is_reverted(sandbox, rule(becomes, current)) is not same
    assert await is_reverted(sandbox, rule(becomes, current), as_owner=True) is not same


async def test_null_is_not_the_value(sandbox: Database) -> None:
    make(sandbox, "text", "x")
    sandbox.execute("UPDATE app.plans SET status = NULL")
    assert await is_reverted(sandbox, rule("VE", "t.status"))
    assert await is_reverted(sandbox, rule("VE", "CASE WHEN t.status = 'x' THEN 7 END"))


async def test_an_enums_value_is_renamed_under_a_running_daemon(sandbox: Database) -> None:
    """Before, the events of the renamed value were skipped as reverted, and their emails lost."""
    make(sandbox, "app.kind", "VE")
    for current in ("t.status", "t.status::text"):
        lookup = Lookup("plans", rule("VE", current))
        async with opened(pool := lookup_pool(sandbox.url)):
            for _ in range(8):
                assert not (await lookup.rows(pool, ["1"])).reverted
            sandbox.execute("ALTER TYPE app.kind RENAME VALUE 'VE' TO 'verified'")
            with pytest.raises(RuleBroken, match=r"'VE' is no value of app.kind.*`pgherald rewatch plans`"):
                await lookup.rows(pool, ["1"])
            with pytest.raises(RuleBroken, match=r"'VE' is no value of app.kind"):
                await Lookup("plans", rule("VE", current)).check(pool)
            assert not (await Lookup("plans", rule("verified", current)).rows(pool, ["1"])).reverted
            sandbox.execute("ALTER TYPE app.kind RENAME VALUE 'verified' TO 'VE'")
            assert not (await lookup.rows(pool, ["1"])).reverted


async def test_the_lookups_role_needs_to_read_the_watched_table(sandbox: Database, role: str) -> None:
    """Before, it could read a view in another schema only. The state is now asked of the table itself."""
    make(sandbox, "text", "VE")
    sandbox.execute(
        sql.SQL(
            "CREATE SCHEMA shown; CREATE VIEW shown.plans AS TABLE app.plans; GRANT USAGE ON SCHEMA app, shown TO {0}; "
            "GRANT SELECT ON shown.plans TO {0}"
        )
        .format(sql.Identifier(role))
        .as_string(None)  # type: ignore[arg-type]
    )
    shown = rule("VE", "t.status")
    shown = shown.model_copy(update={"lookup": shown.lookup.replace("app.plans", "shown.plans")})
    async with opened(pool := lookup_pool(sandbox.url)), pool.connection() as conn:
        await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        lookup = Lookup("plans", shown)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="table plans"):
            await lookup._learn_columns(conn)
        await conn.execute("RESET ROLE")
        sandbox.execute(sql.SQL("GRANT SELECT ON app.plans TO {}").format(sql.Identifier(role)).as_string(None))  # type: ignore[arg-type]
        await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        await lookup._learn_columns(conn)
        assert not lookup._found(["1"], await lookup._fetch(conn, ["1"], 1000)).reverted
