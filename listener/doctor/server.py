"""The PostgreSQL server: reachable, of a supported release, a primary, with the right time and no old transaction."""

import time
from contextlib import suppress

import psycopg

from listener.db.connection import connect_anywhere
from listener.db.errors import translate_errors
from listener.db.pooler import is_pooled
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, fault, ok, warn
from listener.errors import DatabaseUnavailable

# The oldest major release that the SQL is tested with.
MIN_MAJOR = 15
# The minor releases of 13 November 2025 fix LISTEN. Before them, vacuum could cut off the commit log that a slow
# listener still needed. A notification was then lost, or failed with "could not access status of transaction".
FIXED_MINOR = {15: 15, 16: 11, 17: 7, 18: 1}
# Times in emails and histories come from both clocks. A few seconds matter to nobody.
MAX_CLOCK_SKEW_S = 5.0
# Captured events become visible when their transaction commits. Ordinary transactions of an application last less.
MAX_TRANSACTION_AGE_S = 60.0
# Autovacuum removes the outbox's dead rows from 10,000 on. Several times as many mean that it cannot.
MIN_DEAD_ROWS = 50_000


async def database(context: Context) -> Finding:
    """Connect to `[database] url`, and find out whether it leads to a standby."""
    try:
        with translate_errors():
            async with await connect_anywhere(context.settings.database.url) as conn:
                pooled = await is_pooled(conn)
                asked = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean"
                row = await (await conn.execute(asked, prepare=False)).fetchone()
                place = (
                    f"{conn.info.dbname} at {conn.info.host or 'a local socket'}:{conn.info.port} as {conn.info.user}"
                )
                user = conn.info.user
    except DatabaseUnavailable as exc:
        return fault(str(exc), "start PostgreSQL, or correct [database] url (PGHERALD_DATABASE_URL)")
    assert row is not None
    context.user, (context.standby, context.read_only) = user, row
    through = ", through a pooler" if pooled else ""
    return ok(f"connected to {place}{through}")


async def release(context: Context) -> Finding:
    """Check the server's version."""
    row = await context.row("SELECT current_setting('server_version_num')::integer AS number")
    major, minor = divmod(row["number"], 10000)
    shown = f"PostgreSQL {major}.{minor}"
    if major < MIN_MAJOR:
        return fault(f"{shown} is too old", f"upgrade the server to PostgreSQL {MIN_MAJOR} or later")
    if major in FIXED_MINOR and minor < FIXED_MINOR[major]:
        return warn(
            f"{shown} has a bug that can lose notifications and make LISTEN fail after a vacuum",
            f"update to {major}.{FIXED_MINOR[major]} or later; until then a lost notification delays emails by one poll interval",
        )
    return ok(shown)


async def standby(context: Context) -> Finding:
    """Check that the server accepts writes, and that lookups do not read a standby."""
    context.require_database()
    if context.standby:
        return fault(
            "this server is a standby, where neither writes nor LISTEN are possible",
            "point [database] url at the primary; if it lists several hosts, add the primary",
        )
    if context.read_only:
        return fault(
            "default_transaction_read_only is on, so no event can be captured or claimed",
            "find out who set it and why (hosting providers do when the disk is full): "
            "SELECT source, sourcefile FROM pg_settings WHERE name = 'default_transaction_read_only'",
        )
    if context.settings.database.lookup_url:
        # The checks of the lookups say why they cannot connect.
        with suppress(psycopg.OperationalError):
            async with await connect_anywhere(context.settings.database.lookup_url) as lookups:
                found = await (await lookups.execute("SELECT pg_is_in_recovery()")).fetchone()
                context.lookup_standby = found == (True,)
        if context.lookup_standby:
            return fault(
                "[database] lookup_url leads to a standby, which may not have the row of a new event yet",
                "point [database] lookup_url at the primary; if it lists several hosts, add the primary",
            )
    return ok("primary, accepts writes")


async def clock(context: Context) -> Finding:
    """Compare the server's clock with this machine's."""
    async with context.read_transaction() as conn:
        asked = time.time()
        row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
        answered = time.time()
    assert row is not None
    skew = row[0] - (asked + answered) / 2
    if abs(skew) - (answered - asked) / 2 > MAX_CLOCK_SKEW_S:
        side = "ahead of" if skew > 0 else "behind"
        return warn(
            f"the server's clock is {abs(skew):.0f} s {side} this machine's clock",
            "synchronize both with NTP; `chronyc tracking` shows the offset",
        )
    shown = "less than 1 s" if abs(skew) < 1 else f"{abs(skew):.0f} s"
    return ok(f"differs by {shown} from this machine's clock")


async def transactions(context: Context) -> Finding:
    """Look for a transaction that holds back vacuum, and with it the removal of old outbox rows."""
    row = await context.row(QUERIES["transactions"], {"seconds": MAX_TRANSACTION_AGE_S, "dead": MIN_DEAD_ROWS})
    if row["what"] is not None:
        holds = "holds an old snapshot" if row["age"] is None else f"has had a transaction open for {_age(row['age'])}"
        price = (
            f": the outbox keeps {row['dead']:,} dead rows, and a claim that looks for old events reads all their "
            "index entries"
            if row["dead"] >= MIN_DEAD_ROWS
            else ""
        )
        return warn(f"{row['what']} {holds}, which holds back vacuum{price}", row["remedy"])
    if not row["sees_all"]:
        return warn(
            "not checked: this role cannot see the sessions of other roles",
            f"GRANT pg_read_all_stats TO {row['role']}; or run doctor as a role that has it",
        )
    return ok(f"no transaction is older than {MAX_TRANSACTION_AGE_S:g} s")


def _age(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 7200
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )
