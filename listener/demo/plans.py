"""The demo's application: its tables, its rows, and the outcome that each row should have."""

import asyncio
import time
from dataclasses import dataclass, field

import psycopg

from listener.config.rules import default_rules
from listener.db import install
from listener.demo.catcher import CaughtMessage

_TABLES = """
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text, email_notifications_enabled boolean);
    CREATE TABLE plan (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, place text);
    CREATE TABLE dateplan (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint REFERENCES users,
                           plan_id bigint REFERENCES plan, status text NOT NULL DEFAULT 'PE');
"""
_PLACES = (
    "Café Zürich", "Łazienki Park", "Sushi 寿司 Bar", "The Old Mill", "Jardín Botánico", "Pizzeria <Da Nino> & Sons",
    "Ταβέρνα ο Γιώργος", "Rooftop 🌃 Cinema", "Чайная «Самовар»", "Museum of Light", "Blå Dörren", "Ice rink",
)  # fmt: skip


@dataclass
class Plan:
    """One row of `dateplan`. `expected` is "email", or the reason for which it is skipped.

    `committed` is the time of a single change (`time.monotonic`, in seconds), until its email arrives.
    """

    id: int
    email: str | None
    place: str | None
    expected: str
    committed: float | None = None

    @property
    def owner(self) -> str:
        """Return the owner's address as the demo shows it."""
        return self.email or "(no address)"


@dataclass
class Tally:
    """The expected outcomes, and what has arrived so far.

    `plans` are the rows by id. `latencies_ms` are the times from the commit of a single change to the arrival of its
    email. `settled` are the ids of events that were skipped or failed and have been shown.
    """

    plans: dict[int, Plan] = field(default_factory=dict)
    by_address: dict[str, Plan] = field(default_factory=dict)
    messages: list[CaughtMessage] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)


def prepare(url: str, tally: Tally, count: int) -> None:
    """Create the tables with `count` plans and install pgherald."""
    rules = default_rules()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_TABLES)
        for number in range(count):
            # The address has the number of the plan, so that a reader can compare them.
            email: str | None = f"user{number + 1}@example.org"
            place: str | None = _PLACES[number % len(_PLACES)]
            consent: bool | None = True
            expected = "email"
            # Every sixth plan must be skipped, each for another reason.
            if number % 6 == 5:
                match number // 6 % 4:
                    case 0:
                        consent, expected = False, "no_consent"
                    case 1:
                        consent, expected = None, "no_consent"
                    case 2:
                        email, expected = None, "no_recipient"
                    case _:
                        place, expected = None, "incomplete"
            row = conn.execute(
                """WITH u AS (INSERT INTO users (email, email_notifications_enabled) VALUES (%s, %s) RETURNING id),
                        p AS (INSERT INTO plan (place) VALUES (%s) RETURNING id)
                   INSERT INTO dateplan (user_id, plan_id) SELECT u.id, p.id FROM u, p RETURNING id""",
                (email, consent, place),
            ).fetchone()
            assert row is not None
            plan = tally.plans[row[0]] = Plan(row[0], email, place, expected)
            if email is not None:
                tally.by_address[email] = plan
        for step in install.install_steps(rules):
            install.run(conn, step, lambda text: None)


async def verify_all(url: str, tally: Tally) -> None:
    """Change the rows as applications do: in a transaction that is rolled back, one by one, in bulk, and a second time."""
    plans = list(tally.plans.values())
    single, bulk = plans[: 2 * len(plans) // 3], plans[2 * len(plans) // 3 :]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        update = "UPDATE dateplan SET status = 'VE' WHERE id = ANY (%s)"
        await conn.execute("BEGIN")
        await conn.execute(update, ([plan.id for plan in plans],))
        await conn.execute("ROLLBACK")
        for plan in single:
            await conn.execute(update, ([plan.id],))
            plan.committed = time.monotonic()
            await asyncio.sleep(min(0.05, 5 / len(single)))
        await conn.execute(update, ([plan.id for plan in bulk],))
        # The same value again is no change: no second email.
        await conn.execute(update, ([plan.id for plan in plans],))
