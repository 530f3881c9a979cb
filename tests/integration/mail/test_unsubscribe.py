"""The statement of a rule, run for the row of a token, as the role of the lookups may run it."""

from pathlib import Path

import psycopg
import pytest

from listener.config.rules import APPLICATION, Rule, default_rules
from listener.db import schema
from listener.db.connection import connect_async
from listener.db.pools import opened, statement_pool
from listener.db.statement import unsubscribe_of
from listener.errors import DatabaseUnavailable, RuleBroken
from listener.mail.unsubscribe import Subscription, signing_key, unsubscribe
from tests.support.database import Database

NAME = "dateplan_verified"
PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def documented() -> str:
    """The statement that the page shows."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition('unsubscribe = """')
    return rest.partition('"""')[0]


def rules(statement: str) -> dict[str, Rule]:
    return {NAME: Rule(**{**default_rules()[NAME].model_dump(exclude_unset=True), "unsubscribe": statement})}


async def follow(url: str, key: str, statement: str | None = None) -> None:
    async with opened(pool := statement_pool(url)):
        await unsubscribe(pool, rules(documented() if statement is None else statement), Subscription(NAME, key))


async def tried(url: str, statement: str) -> None:
    async with await connect_async(url) as conn, conn.transaction():
        # As doctor does: even so, it tells whether it could be run.
        await conn.execute("SET TRANSACTION READ ONLY")
        if (found := unsubscribe_of(NAME, rules(statement)[NAME])) is not None:
            await found.check(conn)


def consents(database: Database) -> list[bool]:
    return [row[0] for row in database.execute("SELECT email_notifications_enabled FROM public.users ORDER BY id")]


async def test_it_takes_back_one_consent_any_number_of_times(database: Database) -> None:
    one, _ = database.add_plan("Café", "a@example.org"), database.add_plan("Bar", "b@example.org")
    for _ in range(2):
        await follow(database.url, str(one))
        assert consents(database) == [False, True]


async def test_a_row_that_is_gone_is_answered_like_any_other(database: Database) -> None:
    database.add_plan("Café", "a@example.org")
    await follow(database.url, "4711")
    assert consents(database) == [True]


@pytest.mark.parametrize("statement", ["", APPLICATION])
async def test_a_rule_without_a_statement(database: Database, statement: str) -> None:
    with pytest.raises(RuleBroken, match=r"\[rules\.dateplan_verified\] unsubscribe: must be a statement"):
        await follow(database.url, "1", statement)


async def test_a_statement_that_fails(database: Database) -> None:
    with pytest.raises(RuleBroken, match=r'unsubscribe fails: relation "public\.nobody" does not exist'):
        await follow(database.url, "1", "DELETE FROM public.nobody WHERE id::text = ANY (%(keys)s)")


async def test_what_could_not_be_run_is_found_without_running_it(database: Database) -> None:
    database.add_plan("Café", "a@example.org")
    for statement in (documented(), "", APPLICATION, "CALL public.nobody(%(keys)s)"):
        await tried(database.url, statement)
    for statement in ("DELETE FROM public.nobody WHERE id::text = ANY (%(keys)s)", "SELEC %(keys)s"):
        with pytest.raises(RuleBroken, match=r"\[rules\.dateplan_verified\] unsubscribe fails: "):
            await tried(database.url, statement)
    assert consents(database) == [True]


async def test_no_database() -> None:
    with pytest.raises(DatabaseUnavailable):
        await follow("postgresql://127.0.0.1:1/x", "1")


async def test_the_role_of_the_lookups_needs_the_grant_of_the_page_and_no_more(database: Database) -> None:
    plan = database.add_plan("Café", "a@example.org")
    role = "unsubscribes_" + database.value("SELECT current_database()").replace("-", "_")[-30:]
    grant = next(line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    GRANT SELECT, UPDATE"))
    database.execute(f'CREATE ROLE "{role}"')  # type: ignore[arg-type]
    try:
        database.execute(f'GRANT SELECT ON public.dateplan TO "{role}"')  # type: ignore[arg-type]
        as_role = psycopg.conninfo.make_conninfo(database.url, options=f"-c role={role}")
        with pytest.raises(RuleBroken, match="permission denied for table users"):
            await follow(as_role, str(plan))
        with pytest.raises(RuleBroken, match="permission denied for table users"):
            await tried(as_role, documented())
        database.execute(grant.replace("herald_lookup", f'"{role}"'))  # type: ignore[arg-type]
        await tried(as_role, documented())
        assert consents(database) == [True]
        await follow(as_role, str(plan))
        assert consents(database) == [False]
    finally:
        database.execute(f'DROP OWNED BY "{role}"')  # type: ignore[arg-type]
        database.execute(f'DROP ROLE "{role}"')  # type: ignore[arg-type]


async def test_the_signing_key_of_the_page_is_the_daemons(database: Database) -> None:
    query = next(line for line in PAGE.read_text().splitlines() if line.startswith("    SELECT encode(sha256("))
    async with await connect_async(database.url) as conn:
        assert database.value(query.strip()) == signing_key(await schema.secret(conn)).decode()  # type: ignore[arg-type]
