"""What each of the daemon's pools sets in its sessions."""

import asyncio
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from listener.db import pools
from listener.db.pool import Connection, Pool
from listener.db.pools import bounce_pool, lookup_pool, opened, outbox_pool, overview_pool, statement_pool
from tests.support import wait_until
from tests.support.database import Database
from tests.support.pgbouncer import PgBouncer

Setting = tuple[str, str]
CASES: list[tuple[Callable[[str], Pool], list[Setting], bool]] = [
    (
        outbox_pool,
        [("enable_seqscan", "off"), ("plan_cache_mode", "force_generic_plan"), ("row_security", "off")],
        True,
    ),
    (outbox_pool, [("synchronous_commit", "on"), ("array_nulls", "on")], True),
    (lookup_pool, [("default_transaction_read_only", "on"), ("search_path", '"$user", public')], True),
    (lookup_pool, [("TimeZone", "UTC"), ("IntervalStyle", "postgres")], True),
    (statement_pool, [("row_security", "on"), ("search_path", "pg_catalog, pg_temp")], False),
    (bounce_pool, [("row_security", "off"), ("search_path", "pg_catalog, pg_temp")], False),
    (overview_pool, [("enable_seqscan", "off"), ("enable_sort", "on"), ("row_security", "off")], True),
]


@pytest.mark.parametrize(("make", "expected", "prepares"), CASES)
async def test_its_sessions(
    database: Database, make: Callable[[str], Pool], expected: list[Setting], prepares: bool
) -> None:
    for setting in ("synchronous_commit = off", "TimeZone = 'Asia/Kathmandu'", "IntervalStyle = 'iso_8601'"):
        database.execute(f"ALTER DATABASE {database.value('SELECT current_database()')} SET {setting}")  # type: ignore[arg-type]
    async with opened(pool := make(database.url)), pool.connection() as conn:
        for name, value in expected:
            row = await (await conn.execute("SELECT current_setting(%s)", (name,))).fetchone()
            assert row == (value,), name
        assert (conn.prepare_threshold is not None) == prepares


@pytest.mark.slow
async def test_a_lookup_through_a_pooler_is_in_utc_and_leaves_nothing_behind(database: Database) -> None:
    for setting in ("TimeZone = 'Asia/Kathmandu'", "IntervalStyle = 'iso_8601'", "DateStyle = 'German'"):
        database.execute(f"ALTER DATABASE {database.value('SELECT current_database()')} SET {setting}")  # type: ignore[arg-type]
    text = "SELECT '2026-12-06 20:00+00'::timestamptz::text"
    with PgBouncer(database.url, size=1) as bouncer:
        async with opened(pool := lookup_pool(bouncer.url)), pool.connection() as conn:
            assert await (await conn.execute(text)).fetchone() == ("2026-12-06 20:00:00+00",)
            times = "SELECT interval '1 day 02:00', timestamptz '2026-12-06 20:00+00', timestamptz 'infinity'"
            expected = (timedelta(days=1, hours=2), datetime(2026, 12, 6, 20, tzinfo=UTC), "infinity")
            assert await (await conn.execute(times)).fetchone() == expected
        with psycopg.connect(bouncer.url, prepare_threshold=None) as other:
            assert other.execute(text).fetchone() == ("2026-12-07 01:45:00+05:45",)


async def test_a_number_of_a_jsonb_keeps_its_digits(database: Database) -> None:
    async with opened(pool := lookup_pool(database.url)), pool.connection() as conn:
        row = await (await conn.execute("""SELECT '{"a": 12.50}'::jsonb""")).fetchone()
        assert row == ({"a": Decimal("12.50")},)


def shut_down(conn: Connection) -> None:
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("make", [outbox_pool, lookup_pool, statement_pool, bounce_pool, overview_pool])
async def test_a_backend_whose_client_is_gone_ends_its_wait(database: Database, make: Callable[[str], Pool]) -> None:
    """Neither a timeout nor a cancellation ends it: the client's host has failed."""
    database.execute("SELECT 1")  # in a session that is not the locker's
    locker = database.connect()
    locker.execute("BEGIN")
    locker.execute("LOCK public.plan")
    async with opened(pool := make(database.url)), pool.connection() as conn:
        await conn.execute("SET lock_timeout = 0")
        gone = conn.info.backend_pid
        asyncio.get_running_loop().call_later(0.2, shut_down, conn)
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT FROM public.plan")
    present = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    await asyncio.to_thread(wait_until, lambda: database.value(present, (gone,)) == 0, 10)


async def test_a_server_that_cannot_notice_a_lost_client_is_used_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses the setting, as this one refuses a negative interval. The others must be set even so."""
    monkeypatch.setattr(pools, "_NOTICE_LOST_CLIENT", "SET client_connection_check_interval = -1")
    async with opened(pool := outbox_pool(database.url)), pool.connection() as conn:
        row = await (await conn.execute("SELECT current_setting('enable_seqscan')")).fetchone()
        assert row == ("off",)
