"""A lookup that fails, scans a table, or is limited by row-level security is named."""

import pytest
from psycopg import sql

from listener.config.settings import Settings
from tests.support.database import Database
from tests.support.doctor import HEALTHY, LOOKUP, RULE, TEMPLATE, Examine, as_role, ill, names, rule_with, without

BY_KEY = "WHERE d.id = ANY (%(keys)s::bigint[])"


@pytest.mark.parametrize(
    ("part", "other", "check", "words"),
    [
        ("u.email,", "", LOOKUP, "'email'"),
        ("p.place", "p.plaice", LOOKUP, "plaice"),
        (", p.place", "", LOOKUP, "'place'"),
        ("d.id AS key", "d.id / 0 AS key", LOOKUP, "DivisionByZero"),
    ],
)
def test_a_lookup_that_fails(plan: int, doctor: Examine, part: str, other: str, check: str, words: str) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, part, other))(settings)

    findings = doctor(change)
    names(findings, check, "fault", words, "[rules.dateplan_verified] lookup")
    assert findings[TEMPLATE].seen == "not checked: the template compiles; without its lookup there is no row to render"


def test_a_lookup_without_index(database: Database, plan: int, doctor: Examine) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, BY_KEY, "WHERE d.id::text = ANY (%(keys)s)"))(
            settings
        )

    # While it is small, nobody minds.
    assert ill(doctor(change)) == HEALTHY
    database.execute("INSERT INTO public.dateplan (user_id) SELECT 1 FROM generate_series(1, 3000)")
    database.execute("ANALYZE public.dateplan")
    assert ill(doctor()) == HEALTHY
    names(doctor(change), LOOKUP, "warn", "the whole of public.dateplan (about 3001 rows)", "CREATE INDEX")


def test_row_level_security(plan: int, database: Database, daemon_role: str, doctor: Examine) -> None:
    url = as_role(database, daemon_role)
    database.execute("ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY")
    assert ill(doctor()) == HEALTHY, "nothing hides from a superuser"
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "shows", "no row of public.dateplan", "CREATE POLICY")
    database.execute("CREATE POLICY own ON public.dateplan USING (plan_id % 2 = 1)")
    findings = doctor(PGHERALD_DATABASE_URL=url)
    names(findings, LOOKUP, "warn", "may hide rows of public.dateplan", "BYPASSRLS")
    remedy, _, _ = findings[LOOKUP].remedy.partition("; or")
    database.execute(sql.SQL(remedy))  # type: ignore[arg-type]
    assert ill(doctor(PGHERALD_DATABASE_URL=url)) == HEALTHY
    database.execute("CREATE POLICY less ON public.dateplan AS RESTRICTIVE USING (plan_id > 0)")
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "warn", "may hide rows of public.dateplan")
    database.execute("ALTER TABLE public.dateplan DISABLE ROW LEVEL SECURITY")
    # Of a table that the lookup reads.
    database.execute("ALTER TABLE public.users ENABLE ROW LEVEL SECURITY")
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "no row of public.users")
