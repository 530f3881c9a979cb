"""A rule's statement `bounced`: checked without running it, and run with the row's key and the class."""

import pytest

from listener.config.rules import DEFAULT_NAME, Rule, default_rules
from listener.db.pools import lookup_pool, opened, statement_pool
from listener.db.statement import Statement, bounced_of
from listener.errors import RuleBroken
from tests.support.database import Database

GOOD = "UPDATE public.users SET email = %(class)s WHERE id = ANY (%(keys)s::bigint[]) AND %(class)s <> 'soft'"


def statement(text: str) -> Statement:
    found = bounced_of(
        DEFAULT_NAME, Rule(**{**default_rules()[DEFAULT_NAME].model_dump(exclude_unset=True), "bounced": text})
    )
    assert found is not None
    return found


async def test_it_is_checked_in_a_session_for_lookups_too(database: Database) -> None:
    async with opened(pool := lookup_pool(database.url)), pool.connection() as conn:
        await statement(GOOD).check(conn)
        # The session that runs it does not look into the schema public.
        with pytest.raises(RuleBroken, match=r'bounced fails: relation "users" does not exist'):
            await statement(GOOD.replace("public.users", "users")).check(conn)
        await statement("CALL nothing(%(keys)s)").check(conn)
    database.add_plan("Café", "a@example.org")
    assert database.value("SELECT email FROM public.users") == "a@example.org"


async def test_it_gets_the_key_and_the_class(database: Database) -> None:
    database.add_plan("Café", "a@example.org")
    async with opened(pool := statement_pool(database.url)):
        assert [await statement(GOOD).run(pool, "1", {"class": kind}) for kind in ("soft", "hard")] == [0, 1]
        assert await statement(GOOD).run(pool, "4711", {"class": "hard"}) == 0
    assert database.value("SELECT email FROM public.users") == "hard"
