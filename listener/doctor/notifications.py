"""LISTEN/NOTIFY, the advisory locks that the wake-up depends on, and the daemons."""

import secrets
from contextlib import aclosing, suppress
from typing import Any

import psycopg

from listener.db.connection import connect_anywhere, connect_async
from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder, holders, strangers
from listener.db.pool import limited
from listener.db.pooler import is_pooled
from listener.db.queries import load
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, NotChecked, fault, ok, warn
from listener.errors import DatabaseUnavailable
from listener.printable import excerpt, utc

# A notification arrives within milliseconds of the commit.
LISTEN_TIMEOUT_S = 2.0
# An event is overdue after this, or after two polls if that is longer. An idle daemon claims at the next poll.
MIN_OVERDUE_S = 10.0
# Daemons test themselves every 5 s with one notification each. This many within `LISTEN_TIMEOUT_S` come from elsewhere.
_MIN_FLOOD = 256
# PostgreSQL itself warns in its log once the queue is half full. A healthy queue is empty.
_QUEUE_WARN_RATIO = 0.1
_QUEUE_FAULT_RATIO = 0.5


async def listen(context: Context) -> Finding:
    """Send a notification and wait for it, as the daemon's self-test does."""
    context.require_database()
    if context.standby:
        raise NotChecked("a standby cannot LISTEN")
    database = context.settings.database
    place = "[database] listen_url" if database.listen_url else "[database] url"
    try:
        return await _listen(database.listen_url or database.url, database.url, place)
    except DatabaseUnavailable as exc:
        return fault(f"{place}: {exc}", f"correct {place}")


async def _listen(listen_url: str, url: str, place: str) -> Finding:
    with translate_errors():
        async with await connect_anywhere(listen_url) as listening:
            row = await (await listening.execute("SELECT pg_is_in_recovery(), current_database()")).fetchone()
            if row is None or row[0]:
                return fault(f"{place} leads to a standby, which cannot LISTEN", f"point {place} at the primary")
            pooled = await is_pooled(listening)
            received, others = await _self_test(listening, url)
    if received:
        return ok("a test notification arrived" + (", through a pooler that keeps sessions" if pooled else ""))
    if others >= _MIN_FLOOD:
        return warn(
            f"the test notification did not arrive within {LISTEN_TIMEOUT_S:g} s, "
            f"behind {others} notifications of others on channel pgherald",
            "find the session that sends them: SELECT pid, usename, application_name, query FROM pg_stat_activity "
            "WHERE query ILIKE '%notify%'; then end it: SELECT pg_terminate_backend(PID)",
        )
    remedy = "set [database] listen_url to a direct connection to the primary; until then the daemon polls"
    if pooled:
        return warn(f"the test notification did not arrive: {place} goes through a transaction pooler", remedy)
    return warn(
        f"the test notification did not arrive: {place} leads to database {row[1]}, not to where the events are", remedy
    )


async def _self_test(listening: psycopg.AsyncConnection[Any], url: str) -> tuple[bool, int]:
    """Return whether our own notification arrived, and how many of others arrived before it."""
    token = secrets.token_hex(8)
    await listening.execute("LISTEN pgherald")
    async with await connect_async(url) as sending:
        await sending.execute("SELECT pg_notify('pgherald', %s)", (token,), prepare=False)
    received, others = False, 0
    # Triggers and daemons use the same channel, so their notifications may come first.
    async with aclosing(listening.notifies(timeout=LISTEN_TIMEOUT_S)) as notifications:
        async for notification in notifications:
            if notification.payload == token:
                received = True
                break
            others += notification.payload != ""
    # A flood can delay the answer. The connection is closed after this anyway.
    with suppress(TimeoutError), limited(listening, LISTEN_TIMEOUT_S):
        await listening.execute("UNLISTEN pgherald")
    return received, others


async def queue(context: Context) -> Finding:
    """Check that PostgreSQL's notification queue is not filling up."""
    row = await context.row(QUERIES["queue"])
    used, shown = row["used"], f"PostgreSQL's notification queue is {row['used']:.0%} full"
    if used <= _QUEUE_WARN_RATIO:
        return ok(shown)
    remedy = "end the session that listens and keeps a transaction open" + (
        f": SELECT pg_terminate_backend({row['pid']})" if row["pid"] else "; pg_stat_activity lists it by xact_start"
    )
    if used > _QUEUE_FAULT_RATIO:
        return fault(f"{shown}; when it is full, every commit with a NOTIFY fails", remedy)
    return warn(shown, remedy)


async def locks(context: Context) -> Finding:
    """Look for other sessions that hold one of pgherald's advisory locks. Any role that can connect may take them."""
    context.require_schema()

    async def look() -> list[LockHolder]:
        async with context.read_transaction() as conn:
            return await holders(conn)

    found = await strangers(look)
    others = [holder for holder in found if holder.lock != "installer"]
    if others:
        return fault(
            "; ".join(
                f"the {holder.lock} lock is held by {excerpt(holder.name)}, which is not a daemon" for holder in others
            ),
            "end the session: " + "; ".join(dict.fromkeys(excerpt(holder.remedy) for holder in others)),
        )
    if found:
        return ok(f"an installer is running: {excerpt(found[0].name)}")
    return ok("no other session holds one of pgherald's locks")


async def gate(context: Context) -> Finding:
    """Check that no event is overdue while the gate is closed, that is, while the leader waits for a notification."""
    context.require_schema()
    settings = context.settings
    overdue_after = max(MIN_OVERDUE_S, 2 * settings.delivery.poll)
    row = await context.row(QUERIES["gate"], {"seconds": overdue_after, "rules": list(settings.rules)})
    if row["pid"] is None:
        return ok("open: no daemon waits for a notification")
    if not row["overdue"]:
        return ok(f"closed by pid {row['pid']}, which waits for a notification; no event is overdue")
    return fault(
        f"closed by pid {row['pid']} ({row['holder']}), but {row['overdue']} events are overdue, "
        f"the oldest for {row['oldest']:.0f} s",
        f"read that daemon's log and restart it; if it is not running: SELECT pg_terminate_backend({row['pid']})",
    )


async def daemon(context: Context) -> Finding:
    """Check that a daemon is running, has suspended no rule, can use the mail server and listens."""
    context.require_schema()
    workers = await context.rows(load("admin")["workers"])
    alive = [worker for worker in workers if worker["alive"]]
    if not alive:
        return warn("no daemon is running; events wait", "start one: pgherald run")
    for suspended in await context.rows(load("admin")["suspended"]):
        rule = excerpt(suspended["rule"])
        return fault(
            f"{rule} is suspended since {utc(suspended['since'])}: {excerpt(suspended['reason'])}",
            f"correct what the checks lookup and template {rule} name; "
            "if they name nothing, the daemons run with an older file: systemctl reload pgherald, or send SIGHUP",
        )
    for worker in alive:
        if worker["breaker"]:
            return warn(
                f"{worker['name']} has paused, because the mail server is unavailable: {worker['breaker']}",
                "pgherald send-test --to YOU shows the reply and the remedy; then pgherald resume",
            )
    if polling := [worker["name"] for worker in alive if not worker["listening"]]:
        return warn(
            f"{', '.join(polling)} {'polls' if len(polling) == 1 else 'poll'}, because LISTEN does not work there",
            "see the check listen, then restart the daemon",
        )
    return ok(f"running: {', '.join(worker['name'] for worker in alive)}")
