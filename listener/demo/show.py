"""The story, played on real parts: an application changes rows, people are told."""

import asyncio
import statistics
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from typing import Any

import psycopg

from listener.config.rules import DEFAULT_NAME
from listener.demo.catcher import Catcher, CaughtMessage
from listener.demo.cluster import Cluster
from listener.demo.daemon import explain, running_daemon
from listener.demo.plans import Tally, prepare, verify_all


async def play(count: int, *, once: bool, say: Callable[[str], None]) -> bool:
    """Play it; True when every expected mail came and no other. Without `once`, goes on until cancelled."""
    begun = time.monotonic()
    with Cluster() as cluster:
        say(f"PostgreSQL {cluster.version} on {cluster.dsn('postgres')}, up in {time.monotonic() - begun:.1f} s")
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE demo")
        tally = Tally()
        prepare(cluster.dsn("demo"), tally, count)
        say(f"tables users, plan and dateplan with {count} plans; triggers installed")
        async with Catcher(lambda mail: _arrived(tally, mail, say)) as catcher:
            say(f"mail catcher on {catcher.url}")
            async with running_daemon(cluster.dsn("demo"), catcher.url) as page:
                say("daemon: pgherald run")
                say(f"status page on {page}\n" if page is not None else "no port is free for the status page\n")
                await verify_all(cluster.dsn("demo"), tally)
                await _settled(cluster.dsn("demo"), tally, say)
                await _explain_one(cluster.dsn("demo"), catcher.url, tally, say)
                fine = _sum_up(tally, say)
                if not once:
                    await _go_on(cluster, tally, page, say)
                return fine


def _arrived(tally: Tally, mail: CaughtMessage, say: Callable[[str], None]) -> None:
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
        """SELECT id, key, state, reason, history -> -1 ->> 'detail'
             FROM pgherald.outbox WHERE state IN ('skipped', 'failed') ORDER BY id"""
    )
    for id, key, state, reason, detail in await cursor.fetchall():
        if id not in tally.seen:
            tally.seen.add(id)
            plan = tally.plans.get(int(key))
            owner = plan.owner if plan is not None else ""
            say(f"  {state:<8} {owner:<22} {'':>10}  dateplan {key}: {reason}{f' ({detail})' if detail else ''}")
            if plan is not None and plan.expected != reason:
                tally.unexpected.append(f"dateplan {key}: {state}, {reason}")


async def _explain_one(url: str, smtp_url: str, tally: Tally, say: Callable[[str], None]) -> None:
    """Ask about a row as an operator does: the first that was skipped, else the first of all."""
    plans = list(tally.plans.values())
    plan = next((plan for plan in plans if plan.expected != "mail"), plans[0])
    say(f"\n$ pgherald explain {DEFAULT_NAME} {plan.id}")
    say(await explain(url, smtp_url, DEFAULT_NAME, plan.id))


def _sum_up(tally: Tally, say: Callable[[str], None]) -> bool:
    wanted = sorted(plan.email or "" for plan in tally.plans.values() if plan.expected == "mail")
    came = sorted(mail.recipients[0] for mail in tally.mails)
    not_to_send = len(tally.plans) - len(wanted)
    fine = came == wanted and len(tally.seen) == not_to_send and not tally.unexpected
    say(f"\n{len(came)} of {len(wanted)} mails came, each once; {len(tally.seen)} of {not_to_send} skipped with their reason" if fine else
        f"\nexpected {len(wanted)} mails and {not_to_send} skipped, saw {len(came)} and {len(tally.seen)}; wrong: {tally.unexpected}")  # fmt: skip
    if tally.latencies:
        ordered = sorted(tally.latencies)
        say(
            f"commit to acceptance over {len(ordered)} single changes: median {statistics.median(ordered):.1f} ms, "
            f"90th percentile {ordered[-(len(ordered) // 10) - 1]:.1f} ms, longest {ordered[-1]:.1f} ms"
        )
    return fine


async def _go_on(cluster: Cluster, tally: Tally, page: str | None, say: Callable[[str], None]) -> None:
    plan = next(plan for plan in tally.plans.values() if plan.expected == "mail")
    flip = "; ".join(f"UPDATE dateplan SET status = '{status}' WHERE id = {plan.id}" for status in ("PE", "VE"))  # noqa: S608 - to be read
    say("\nChange a row yourself, from another terminal, and watch the mail come:\n")
    say(f"""  {cluster.psql} "{cluster.dsn("demo")}" -c "{flip}"\n""")
    if page is not None:
        say(f"What waits and what went out, live: {page}\n")
    say("Ctrl-C ends it and cleans up.\n")
    async with await psycopg.AsyncConnection.connect(cluster.dsn("demo"), autocommit=True) as conn:
        while True:
            await asyncio.sleep(0.5)
            await _show_unmailed(conn, tally, say)
