"""The story, played on real parts: an application changes rows, people are told."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import Any

import psycopg

from listener import schema
from listener.demo.catcher import Catcher, Mail
from listener.demo.cluster import Cluster
from listener.errors import PgheraldError
from listener.rules import default_rules

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
    """One row of `dateplan`, and what should come of it: a mail, a reason, or nothing at all."""

    id: int
    email: str | None
    place: str | None
    expected: str
    committed: float | None = None


@dataclass
class Tally:
    plans: dict[int, Plan] = field(default_factory=dict)
    by_address: dict[str, Plan] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


async def play(count: int, *, once: bool, say: Callable[[str], None]) -> bool:
    """Play it; True when every expected mail came and no other. Without `once`, goes on until cancelled."""
    begun = time.monotonic()
    with Cluster() as cluster:
        say(f"PostgreSQL {cluster.version} on {cluster.dsn('postgres')}, up in {time.monotonic() - begun:.1f} s")
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE demo")
        tally = Tally()
        _prepare(cluster.dsn("demo"), tally, count)
        say(f"tables users, plan and dateplan with {count} plans; triggers installed")
        async with Catcher(lambda mail: _arrived(tally, mail, say)) as catcher:
            say(f"mail catcher on {catcher.url}")
            async with _daemon(cluster.dsn("demo"), catcher.url):
                say("daemon: pgherald run\n")
                await _verify_all(cluster.dsn("demo"), tally)
                await _settled(cluster.dsn("demo"), tally, say)
                fine = _sum_up(tally, say)
                if not once:
                    await _go_on(cluster, tally, say)
                return fine


def _prepare(url: str, tally: Tally, count: int) -> None:
    rules = default_rules()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_TABLES)
        for number in range(count):
            email: str | None = f"user{number}@example.org"
            place: str | None = _PLACES[number % len(_PLACES)]
            consent: bool | None = True
            expected = "mail"
            # Every sixth is one of those whom no mail may reach, each with its reason.
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
        for step in schema.install_steps(rules):
            schema.run(conn, step, lambda text: None)


@asynccontextmanager
async def _daemon(url: str, smtp_url: str) -> AsyncIterator[None]:
    settings = {
        "PGHERALD_DATABASE_URL": url,
        "PGHERALD_SMTP_URL": smtp_url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PGHERALD_", "PG"))}
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "listener", "--config", os.devnull, "run", "--log-format", "json",
        env={**outside, **settings}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert daemon.stderr is not None
    try:
        await _ready(daemon.stderr)
        # Its log goes on, and a full pipe would stop it.
        swallowing = asyncio.create_task(_swallow(daemon.stderr))
        yield
    finally:
        if daemon.returncode is None:
            daemon.terminate()
            await daemon.wait()
    await swallowing


async def _ready(log: asyncio.StreamReader) -> None:
    said = []
    async for line in log:
        said.append(line.decode(errors="replace").strip())
        if b'"ready"' in line:
            return
    raise PgheraldError(f"the daemon did not start: {said[-1] if said else 'it said nothing'}")


async def _swallow(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


async def _verify_all(url: str, tally: Tally) -> None:
    """Change the rows as an application does: one by one, in bulk, twice, in transactions that do not last."""
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
        # Saved again: the row stays what it was, and nobody is told twice.
        await conn.execute(update, ([plan.id for plan in plans],))


def _arrived(tally: Tally, mail: Mail, say: Callable[[str], None]) -> None:
    tally.mails.append(mail)
    recipient = mail.recipients[0]
    plan = tally.by_address.get(recipient)
    message = message_from_bytes(mail.content, policy=policy.default)
    body = message.get_body(("plain",))
    text = str(body.get_content()).strip().splitlines()[0] if body is not None else ""
    took = ""
    if plan is not None and plan.committed is not None:
        milliseconds = max(0.0, mail.arrived - plan.committed) * 1000
        tally.latencies.append(milliseconds)
        took = f"{milliseconds:6.1f} ms"
        plan.committed = None
    if plan is None or plan.expected != "mail":
        tally.unexpected.append(recipient)
    say(f"  mail     {recipient:<22} {took:>10}  {message['Subject']} | {text}")


async def _settled(url: str, tally: Tally, say: Callable[[str], None]) -> None:
    """Wait until every event is settled, and show those that were not mailed."""
    give_up = time.monotonic() + 30 + len(tally.plans) / 100
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while time.monotonic() < give_up:
            await _show_unmailed(conn, tally, say)
            cursor = await conn.execute("SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL")
            row = await cursor.fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.05)
        await _show_unmailed(conn, tally, say)


async def _show_unmailed(conn: psycopg.AsyncConnection[Any], tally: Tally, say: Callable[[str], None]) -> None:
    cursor = await conn.execute(
        "SELECT id, key, state, reason FROM pgherald.outbox WHERE state IN ('skipped', 'failed') ORDER BY id"
    )
    for id, key, state, reason in await cursor.fetchall():
        if id not in tally.seen:
            tally.seen.add(id)
            say(f"  {state:<8} dateplan {key}: {reason}")
            plan = tally.plans.get(int(key))
            if plan is not None and plan.expected != reason:
                tally.unexpected.append(f"dateplan {key}: {state}, {reason}")


def _sum_up(tally: Tally, say: Callable[[str], None]) -> bool:
    wanted = sorted(plan.email or "" for plan in tally.plans.values() if plan.expected == "mail")
    came = sorted(mail.recipients[0] for mail in tally.mails)
    unmailed = len(tally.plans) - len(wanted)
    fine = came == wanted and len(tally.seen) == unmailed and not tally.unexpected
    say(f"\n{len(came)} of {len(wanted)} mails came, each once; {len(tally.seen)} of {unmailed} skipped with their reason" if fine else
        f"\nexpected {len(wanted)} mails and {unmailed} skipped, saw {len(came)} and {len(tally.seen)}; wrong: {tally.unexpected}")  # fmt: skip
    if tally.latencies:
        ordered = sorted(tally.latencies)
        say(
            f"commit to acceptance over {len(ordered)} single changes: median {statistics.median(ordered):.1f} ms, "
            f"90th percentile {ordered[-(len(ordered) // 10) - 1]:.1f} ms, longest {ordered[-1]:.1f} ms"
        )
    return fine


async def _go_on(cluster: Cluster, tally: Tally, say: Callable[[str], None]) -> None:
    plan = next(plan for plan in tally.plans.values() if plan.expected == "mail")
    flip = "; ".join(f"UPDATE dateplan SET status = '{status}' WHERE id = {plan.id}" for status in ("PE", "VE"))  # noqa: S608 - to be read
    say("\nChange a row yourself, from another terminal, and watch the mail come:\n")
    say(f"""  {cluster.psql} "{cluster.dsn("demo")}" -c "{flip}"\n""")
    say("Ctrl-C ends it and cleans up.\n")
    async with await psycopg.AsyncConnection.connect(cluster.dsn("demo"), autocommit=True) as conn:
        while True:
            await asyncio.sleep(0.5)
            await _show_unmailed(conn, tally, say)
