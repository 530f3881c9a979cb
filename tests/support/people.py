"""A plan with several people: the tables, the rule with `each`, and the people of a row."""

from pathlib import Path

from tests.support.configuration import configuration
from tests.support.database import Database

LOOKUP = """
SELECT d.id AS key, d.status AS current, g.user_id AS person, u.email, u.email_notifications_enabled AS consent,
       p.place, u.language
  FROM public.dateplan d
  JOIN public.guest g ON g.dateplan_id = d.id
  JOIN public.users u ON u.id = g.user_id
  JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])
 ORDER BY d.id, g.user_id"""
_TABLES = """
    ALTER TABLE public.users ADD COLUMN language text;
    CREATE TABLE public.guest (dateplan_id bigint, user_id bigint, PRIMARY KEY (dateplan_id, user_id));
"""


def with_people(database: Database, folder: Path, rest: str = "", **changes: str) -> Path:
    """Create the tables, and return the path of a configuration whose rule tells each guest of a plan."""
    database.execute(_TABLES)
    return configuration(folder, rest, **{"each": "person", "lookup": LOOKUP, **changes})


def add_person(database: Database, name: str, *, consent: bool = True, language: str | None = None) -> int:
    """Add a user with the address ``NAME@example.org``, or none if `name` is empty; return the id."""
    [(person,)] = database.execute(
        "INSERT INTO public.users (email, email_notifications_enabled, language) VALUES (%s, %s, %s) RETURNING id",
        (f"{name}@example.org" if name else None, consent, language),
    )
    return int(person)


def add_plan(database: Database, *people: int) -> int:
    """Add a plan with these people, which is not verified yet; return its key."""
    plan = database.add_plan("Café", None)
    for person in people:
        invite(database, plan, person)
    return plan


def invite(database: Database, plan: int, person: int) -> None:
    """Let a person join a plan."""
    database.execute("INSERT INTO public.guest VALUES (%s, %s)", (plan, person))


def leave(database: Database, plan: int, person: int) -> None:
    """Let a person leave a plan."""
    database.execute("DELETE FROM public.guest WHERE dateplan_id = %s AND user_id = %s", (plan, person))


def add_crowds(database: Database, plans: int, people: int) -> list[int]:
    """Add so many plans, each with so many people of its own: ``PLAN-PERSON@example.org``; return the keys."""
    rows = database.execute(
        """WITH place AS (INSERT INTO public.plan (place) VALUES ('Café') RETURNING id),
                plans AS (INSERT INTO public.dateplan (plan_id) SELECT id FROM place, generate_series(1, %(plans)s) RETURNING id),
                people AS (INSERT INTO public.users (id, email, email_notifications_enabled)
                           SELECT plans.id * 10000 + n, concat(plans.id, '-', n, '@example.org'), true
                             FROM plans, generate_series(1, %(people)s) AS n RETURNING id),
                guests AS (INSERT INTO public.guest SELECT id / 10000, id FROM people)
           SELECT id FROM plans ORDER BY id""",
        {"plans": plans, "people": people},
    )
    return [row[0] for row in rows]
