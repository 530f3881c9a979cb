"""The server itself: there, of a sound release, a primary, with the right time and nobody in vacuum's way."""

import time

from listener.db.connection import connect_async, is_pooled
from listener.db.errors import translate_errors
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import CheckResult, fault, ok, warn
from listener.errors import DatabaseUnavailable

OLDEST = 15
# The minor releases of 13 November 2025 mend LISTEN: before them a notification could fail with "could not access
# status of transaction", or be lost, once vacuum had cut off the commit log behind a slow listener.
MENDED = {15: 15, 16: 11, 17: 7, 18: 1}
SKEW = 5.0
LONG = 60.0


async def database(context: Context) -> CheckResult:
    try:
        with translate_errors():
            conn = await connect_async(context.settings.database.url)
            pooled = await is_pooled(conn)
    except DatabaseUnavailable as exc:
        return fault(str(exc), "start it, or correct [database] url (PGHERALD_DATABASE_URL)")
    context.conn = conn
    info = conn.info
    through = ", through a pooler" if pooled else ""
    return ok(f"{info.dbname} at {info.host or 'a local socket'}:{info.port} as {info.user}{through}")


async def release(context: Context) -> CheckResult:
    row = await context.row("SELECT current_setting('server_version_num')::integer AS number")
    major, minor = divmod(row["number"], 10000)
    shown = f"PostgreSQL {major}.{minor}"
    if major < OLDEST:
        return fault(f"{shown} is too old", f"upgrade to PostgreSQL {OLDEST} or later")
    if major in MENDED and minor < MENDED[major]:
        return warn(
            f"{shown} can lose notifications, or fail in LISTEN after a vacuum",
            f"update to {major}.{MENDED[major]} or later; until then the daemon's poll stands in",
        )
    return ok(shown)


async def standby(context: Context) -> CheckResult:
    row = await context.row(
        "SELECT pg_is_in_recovery() AS standby, current_setting('default_transaction_read_only')::boolean AS read_only"
    )
    context.standby = row["standby"]
    if context.standby:
        return fault(
            "this is a standby: nothing can be claimed or heard here",
            "point [database] url at the primary; with several hosts add target_session_attrs=read-write",
        )
    if row["read_only"]:
        return fault(
            "default_transaction_read_only is on: nothing can be claimed or captured",
            "see who set it, and why (a provider does when the disk is full): "
            "SELECT source, sourcefile FROM pg_settings WHERE name = 'default_transaction_read_only'",
        )
    return ok("a primary")


async def clock(context: Context) -> CheckResult:
    async with context.reading() as conn:
        asked = time.time()
        row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
        answered = time.time()
    assert row is not None
    skew = row[0] - (asked + answered) / 2
    if abs(skew) - (answered - asked) / 2 > SKEW:
        side = "ahead of" if skew > 0 else "behind"
        return warn(f"the database's clock is {abs(skew):.0f} s {side} ours", "set both by NTP: check chronyc tracking")
    return ok("within a second of ours" if abs(skew) < 1 else f"{abs(skew):.0f} s off ours")


async def transactions(context: Context) -> CheckResult:
    row = await context.row(QUERIES["transactions"], {"seconds": LONG})
    if row["what"] is not None:
        return warn(
            f"{row['what']} is {_age(row['age'])} old and holds back vacuum",
            row["remedy"],
        )
    if not row["sees_all"]:
        return warn(
            "not checked: sessions of other roles are hidden",
            f"GRANT pg_read_all_stats TO {row['role']}; or run doctor as a role that has it",
        )
    return ok(f"none older than {LONG:g} s")


def _age(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 7200
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )
