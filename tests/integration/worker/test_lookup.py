"""A lookup on a real server: its columns change under a running daemon, and one row makes it fail."""

from types import SimpleNamespace
from typing import Any, LiteralString

import pytest
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from listener.config.rules import Rule, default_rules
from listener.config.sections import DeliverySettings
from listener.db.pools import lookup_pool, opened
from listener.errors import RuleBroken
from listener.outbox.event import Settlement
from listener.outbox.turns import Turn
from listener.worker.delivery import Delivery
from listener.worker.lookup import Lookup
from tests.sql.test_isolated_failures import worker
from tests.support.claimant import RULE
from tests.support.database import Database

LOOKUP = default_rules()[RULE].lookup


def rule(place: str) -> Rule:
    """The shipped rule with another expression for the place."""
    return default_rules()[RULE].model_copy(update={"lookup": LOOKUP.replace("p.place", f"{place} AS place")})


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE public.plan ALTER COLUMN place TYPE varchar(200)",
        "ALTER TABLE public.plan ALTER COLUMN place TYPE text",
        "ALTER TABLE public.plan ALTER COLUMN place TYPE jsonb USING to_jsonb(place)",
        "ALTER TABLE public.plan ADD COLUMN city text",
        "ALTER TABLE public.plan ADD COLUMN city text; ALTER TABLE public.plan DROP COLUMN city",
        "ALTER TABLE public.users RENAME email TO mail; ALTER TABLE public.users ADD COLUMN email text DEFAULT 'b@example.org'",
    ],
    ids=["wider", "text", "jsonb", "a column more", "and again less", "another column of that name"],
)
async def test_a_column_changes_under_a_running_daemon(database: Database, change: LiteralString) -> None:
    """The session has the query prepared, and the server refuses the plan whose result has other columns."""
    plan = database.add_plan("Café", "a@example.org")
    database.execute("ALTER TABLE public.plan ALTER COLUMN place TYPE varchar(100)")
    pool = lookup_pool(database.url)
    lookup = Lookup(RULE, default_rules()[RULE].model_copy(update={"lookup": LOOKUP.replace("p.place", "p.*")}))
    async with opened(pool):
        for _ in range(8):
            assert len((await lookup.rows(pool, [str(plan)])).rows[str(plan)]) == 1
        for statement in change.split("; "):
            database.execute(sql.SQL(statement))  # type: ignore[arg-type]
        [row] = (await lookup.rows(pool, [str(plan)])).rows[str(plan)]
        assert row["place"] == "Café"


POISON: dict[str, LiteralString] = {
    "two rows": "(SELECT u.email FROM public.users u WHERE p.place <> 'poison' AND u.id = d.user_id OR p.place = 'poison')",
    "RAISE": "public.checked(p.place, 'P0001')",
    "RAISE with a code": "public.checked(p.place, 'U0001')",
    "no data found": "public.checked(p.place, 'P0002')",
    "a domain": "nullif(p.place, 'poison')::public.filled",
    "a division": "1 / nullif(length(p.place) - 6, 0) + 1 / (length(p.place) - 6)",
}


@pytest.mark.parametrize("kind", POISON)
async def test_one_row_fails_and_the_others_go_out(database: Database, kind: str) -> None:
    database.execute("CREATE DOMAIN public.filled AS text NOT NULL")
    database.execute("""CREATE FUNCTION public.checked(place text, code text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        IF place = 'poison' THEN RAISE EXCEPTION 'jane@example.org is not right' USING ERRCODE = code; END IF;
        RETURN place; END $$""")
    plans = [database.add_plan("poison" if i == 5 else "Café", "a@example.org") for i in range(15)]
    database.execute("UPDATE public.dateplan SET status = 'VE'")
    anything: Any = SimpleNamespace(recipients=SimpleNamespace(allows=lambda _: True))
    delivery = Delivery({RULE: rule(POISON[kind])}, anything, b"", {RULE: DeliverySettings(max_attempts=2)})
    pool = lookup_pool(database.url)
    async with opened(pool), worker(database) as outbox:
        decided = await delivery.triage(RULE, await outbox.claim(500, [Turn(RULE)]), pool)
    failed = [each for each in decided if isinstance(each, Settlement)]
    assert [(each.event.key, each.state, each.reason) for each in failed] == [
        (str(plans[5]), "available", "lookup_error")
    ]
    assert "jane" not in (failed[0].detail or "")
    assert len(decided) == 15


async def test_a_query_that_fails_for_no_row_suspends_and_shows_no_address(database: Database) -> None:
    plan = database.add_plan("Café", "a@example.org")
    pool = lookup_pool(database.url)
    lookup = Lookup(RULE, rule("p.place"))
    delivery = Delivery({RULE: rule("p.place")}, SimpleNamespace(), b"", {RULE: DeliverySettings(max_attempts=1)})  # type: ignore[arg-type]
    async with opened(pool):
        await lookup.rows(pool, [str(plan)])
        database.execute('ALTER TABLE public.plan RENAME place TO "jane@example.org"')
        with pytest.raises(RuleBroken) as caught:
            await lookup.rows(pool, [str(plan)])
    with structlog.testing.capture_logs() as logs:
        delivery.suspensions.suspend(RULE, RuleBroken(f"{caught.value}: jane@example.org"))
    assert "jane@" not in str(logs)
    assert "***@example.org" in str(logs)


async def test_row_security_that_hides_every_row_suspends_the_rule(sandbox: Database, role: str) -> None:
    """Before, the server showed no row, and each event was skipped as row_gone."""
    sandbox.execute(
        sql.SQL(
            """CREATE TABLE app.plans (id int PRIMARY KEY, status text); INSERT INTO app.plans VALUES (1, 'VE');
               GRANT USAGE ON SCHEMA app TO {0}; GRANT SELECT ON app.plans TO {0}"""
        )
        .format(sql.Identifier(role))
        .as_string(None)  # type: ignore[arg-type]
    )
    text = "SELECT id AS key, status AS current, 'a@example.org' AS email, true AS consent FROM app.plans WHERE id = ANY (%(keys)s::int[])"
    rule = Rule.model_validate(
        {"table": "app.plans", "becomes": "VE", "lookup": text, "template": "dateplan_verified", "require": []}
    )
    lookup = Lookup("plans", rule)
    async with opened(pool := lookup_pool(make_conninfo(sandbox.url, options=f"-c role={role}"))):
        assert len((await lookup.rows(pool, ["1", "2"])).rows["1"]) == 1
        sandbox.execute("ALTER TABLE app.plans ENABLE ROW LEVEL SECURITY")
        with pytest.raises(RuleBroken, match=r"shows .* no row of app.plans; CREATE POLICY pgherald ON app.plans"):
            await lookup.rows(pool, ["1"])
        sandbox.execute("CREATE POLICY p ON app.plans USING (id > 1)")
        assert (await lookup.rows(pool, ["1"])).rows == {"1": []}, "a policy may hide a row"
