"""The demo as it is printed: an application changes rows, and emails arrive."""

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

# The demo gives up if the events are not settled after this, plus the time that they need at the lowest rate.
_SETTLE_TIMEOUT_S = 30
_MIN_EMAILS_PER_S = 100


async def play(count: int, *, once: bool, say: Callable[[str], None]) -> bool:
    """Run the demo. Return whether every expected email arrived, and no other.

    `say` prints a line. Without `once`, keep running until cancelled.
    """
    started_at = time.monotonic()
    with Cluster() as cluster:
        say(f"PostgreSQL {cluster.version} on {cluster.dsn('postgres')}, up in {time.monotonic() - started_at:.1f} s")
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE demo")
        tally = Tally()
        prepare(cluster.dsn("demo"), tally, count)
        say(f"tables users, plan and dateplan with {count} plans; triggers installed")
        async with Catcher(lambda message: _arrived(tally, message, say)) as catcher:
            say(f"mail catcher on {catcher.url}")
            async with running_daemon(cluster.dsn("demo"), catcher.url) as page:
                say("daemon: pgherald run")
                say(f"status page on {page}\n" if page is not None else "no status page: no port could be bound\n")
                await verify_all(cluster.dsn("demo"), tally)
                await _settled(cluster.dsn("demo"), tally, say)
                await _explain_one(cluster.dsn("demo"), catcher.url, tally, say)
                fine = _sum_up(tally, say)
                if not once:
                    await _keep_running(cluster, tally, page, say)
                return fine


def _arrived(tally: Tally, caught: CaughtMessage, say: Callable[[str], None]) -> None:
    tally.messages.append(caught)
    recipient = caught.recipients[0]
    plan = tally.by_address.get(recipient)
    message = message_from_bytes(caught.content, policy=policy.default)
    body = message.get_body(("plain",))
    text = str(body.get_content()).strip().splitlines()[0] if body is not None else ""
    took = ""
    if plan is not None and plan.committed is not None:
        milliseconds = max(0.0, caught.arrived - plan.committed) * 1000
        tally.latencies_ms.append(milliseconds)
        took = f"{milliseconds:6.1f} ms"
        plan.committed = None
    if plan is None or plan.expected != "email":
        tally.unexpected.append(recipient)
    say(f"  email    {recipient:<22} {took:>10}  {message['Subject']} | {text}")


async def _settled(url: str, tally: Tally, say: Callable[[str], None]) -> None:
    """Wait until every event is settled, and show those that were not sent."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S + len(tally.plans) / _MIN_EMAILS_PER_S
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while time.monotonic() < deadline:
            await _show_not_sent(conn, tally, say)
            cursor = await conn.execute(
                "SELECT (SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL) + (SELECT count(*) FROM pgherald.inbox)"
            )
            row = await cursor.fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.05)
        await _show_not_sent(conn, tally, say)


async def _show_not_sent(conn: psycopg.AsyncConnection[Any], tally: Tally, say: Callable[[str], None]) -> None:
    cursor = await conn.execute(
        """SELECT id, key, state, reason, history -> -1 ->> 'detail'
             FROM pgherald.outbox WHERE state IN ('skipped', 'failed') ORDER BY id"""
    )
    for id, key, state, reason, detail in await cursor.fetchall():
        if id not in tally.settled:
            tally.settled.add(id)
            plan = tally.plans.get(int(key))
            owner = plan.owner if plan is not None else ""
            say(f"  {state:<8} {owner:<22} {'':>10}  dateplan {key}: {reason}{f' ({detail})' if detail else ''}")
            if plan is not None and plan.expected != reason:
                tally.unexpected.append(f"dateplan {key}: {state}, {reason}")


async def _explain_one(url: str, smtp_url: str, tally: Tally, say: Callable[[str], None]) -> None:
    """Show `pgherald explain` for the first row that was skipped, or else for the first row."""
    plans = list(tally.plans.values())
    plan = next((plan for plan in plans if plan.expected != "email"), plans[0])
    say(f"\n$ pgherald explain {DEFAULT_NAME} {plan.id}")
    say(await explain(url, smtp_url, DEFAULT_NAME, plan.id))


def _sum_up(tally: Tally, say: Callable[[str], None]) -> bool:
    expected = sorted(plan.email or "" for plan in tally.plans.values() if plan.expected == "email")
    arrived = sorted(message.recipients[0] for message in tally.messages)
    skipped = len(tally.plans) - len(expected)
    fine = arrived == expected and len(tally.settled) == skipped and not tally.unexpected
    if fine:
        say(
            f"\n{len(arrived)} of {len(expected)} emails arrived, each once; "
            f"{len(tally.settled)} of {skipped} events skipped, each for the expected reason"
        )
    else:
        say(
            f"\nexpected {len(expected)} emails and {skipped} skipped events, got {len(arrived)} and {len(tally.settled)}; "
            f"unexpected: {tally.unexpected}"
        )
    if tally.latencies_ms:
        ordered = sorted(tally.latencies_ms)
        say(
            f"time from commit to arrival of {len(ordered)} single changes: median {statistics.median(ordered):.1f} ms, "
            f"90th percentile {ordered[-(len(ordered) // 10) - 1]:.1f} ms, maximum {ordered[-1]:.1f} ms"
        )
    return fine


async def _keep_running(cluster: Cluster, tally: Tally, page: str | None, say: Callable[[str], None]) -> None:
    plan = next(plan for plan in tally.plans.values() if plan.expected == "email")
    changes = "; ".join(f"UPDATE dateplan SET status = '{status}' WHERE id = {plan.id}" for status in ("PE", "VE"))  # noqa: S608 - printed, not executed
    say("\nChange a row yourself from another terminal, and watch the email arrive:\n")
    say(f"""  {cluster.psql} "{cluster.dsn("demo")}" -c "{changes}"\n""")
    if page is not None:
        say(f"The status page, live: {page}\n")
    say("Press Ctrl-C to stop; everything is removed.\n")
    async with await psycopg.AsyncConnection.connect(cluster.dsn("demo"), autocommit=True) as conn:
        while True:
            await asyncio.sleep(0.5)
            await _show_not_sent(conn, tally, say)
