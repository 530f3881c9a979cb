"""Whether the daemon would be rung, and is there to hear it."""

import secrets
from contextlib import aclosing, suppress
from typing import Any

import psycopg

from listener.db.connection import connect_async, is_pooled
from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder, holders, strangers
from listener.db.pool import limited
from listener.db.queries import load
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import CheckResult, NotChecked, fault, ok, warn
from listener.errors import DatabaseUnavailable
from listener.printable import excerpt

HEARING = 2.0
OVERDUE = 10.0
# So many notifications of others, within that time, are no daemons that ring themselves.
_FLOOD = 256


async def listen(context: Context) -> CheckResult:
    """Rings itself, as the daemon does at its start."""
    if context.conn is None:
        raise NotChecked("there is no connection to the database")
    if context.standby:
        raise NotChecked("a standby cannot LISTEN")
    database = context.settings.database
    place = "[database] listen_url" if database.listen_url else "[database] url"
    try:
        return await _listen(database.listen_url or database.url, database.url, place)
    except DatabaseUnavailable as exc:
        return fault(f"{place}: {exc}", f"correct {place}")


async def _listen(listen_url: str, url: str, place: str) -> CheckResult:
    with translate_errors():
        async with await connect_async(listen_url) as ear:
            row = await (await ear.execute("SELECT pg_is_in_recovery(), current_database()")).fetchone()
            if row is None or row[0]:
                return fault(f"{place} leads to a standby, which cannot LISTEN", f"point {place} at the primary")
            pooled = await is_pooled(ear)
            heard, others = await _hears(ear, url)
    if heard:
        return ok("rang and heard it" + (", through a pooler that keeps sessions" if pooled else ""))
    if others >= _FLOOD:
        return warn(
            f"rang, not heard within {HEARING:g} s behind {others} notifications of others on channel pgherald",
            "find who sends them: SELECT pid, usename, application_name, query FROM pg_stat_activity "
            "WHERE query ILIKE '%notify%'; end it: SELECT pg_terminate_backend(PID)",
        )
    remedy = "set [database] listen_url to a direct connection to the primary; until then the daemon polls"
    if pooled:
        return warn(f"rang, not heard: {place} goes through a transaction pooler", remedy)
    return warn(f"rang, not heard: {place} leads to database {row[1]}, and not to where the events are", remedy)


async def _hears(ear: psycopg.AsyncConnection[Any], url: str) -> tuple[bool, int]:
    """Return whether its own ring was heard, and how many of others' were."""
    token = secrets.token_hex(8)
    await ear.execute("LISTEN pgherald")
    async with await connect_async(url) as bell:
        await bell.execute("SELECT pg_notify('pgherald', %s)", (token,), prepare=False)
    heard, others = False, 0
    # The application rings the same bell, and so others' rings come first.
    async with aclosing(ear.notifies(timeout=HEARING)) as rings:
        async for ring in rings:
            if ring.payload == token:
                heard = True
                break
            others += ring.payload != ""
    # Behind a flood there may be no answer. The connection is closed after this in any case.
    with suppress(TimeoutError), limited(ear, HEARING):
        await ear.execute("UNLISTEN pgherald")
    return heard, others


async def queue(context: Context) -> CheckResult:
    row = await context.row(QUERIES["queue"])
    used, shown = row["used"], f"{row['used']:.0%} full"
    if used <= 0.1:
        return ok(shown)
    remedy = "end the session that LISTENs and sits in a transaction" + (
        f": SELECT pg_terminate_backend({row['pid']})" if row["pid"] else "; pg_stat_activity, oldest xact_start first"
    )
    if used > 0.5:
        return fault(f"{shown}; when it is full, every commit that notifies fails", remedy)
    return warn(shown, remedy)


async def locks(context: Context) -> CheckResult:
    """Look for sessions that hold a lock of ours and are no daemon's: whoever may connect may take one."""
    context.need_schema()

    async def look() -> list[LockHolder]:
        async with context.reading() as conn:
            return await holders(conn)

    found = await strangers(look)
    others = [holder for holder in found if holder.lock != "installer"]
    if others:
        return fault(
            "; ".join(
                f"the {holder.lock} lock is held by {excerpt(holder.name)}, no daemon's session" for holder in others
            ),
            "end it: " + "; ".join(dict.fromkeys(excerpt(holder.remedy) for holder in others)),
        )
    if found:
        return ok(f"an installer is running: {excerpt(found[0].name)}")
    return ok("no other session holds one of ours")


async def gate(context: Context) -> CheckResult:
    """Asleep with work to do is the one thing that no daemon may be."""
    context.need_schema()
    settings = context.settings
    patience = max(OVERDUE, 2 * settings.delivery.poll)
    row = await context.row(QUERIES["gate"], {"seconds": patience, "rules": list(settings.rules)})
    if row["pid"] is None:
        return ok("open: nobody sleeps")
    if not row["overdue"]:
        return ok(f"closed by pid {row['pid']}, asleep with nothing overdue")
    return fault(
        f"closed by pid {row['pid']} ({row['holder']}) with {row['overdue']} events overdue, the oldest for {row['oldest']:.0f} s",
        f"see what that daemon's log says, restart it; if it is gone: SELECT pg_terminate_backend({row['pid']})",
    )


async def daemon(context: Context) -> CheckResult:
    context.need_schema()
    workers = await context.rows(load("admin")["workers"])
    alive = [worker for worker in workers if worker["alive"]]
    if not alive:
        return warn("no daemon is at work; events wait", "start it: pgherald run")
    for worker in alive:
        if worker["breaker"]:
            return warn(
                f"{worker['name']} does not claim: {worker['breaker']}", "mend the mail server; see the check smtp"
            )
    if deaf := [worker["name"] for worker in alive if not worker["listening"]]:
        return warn(f"{', '.join(deaf)} polls and does not listen", "see the check listen, then restart it")
    return ok(", ".join(worker["name"] for worker in alive))
