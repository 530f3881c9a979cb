"""A pool reuses connections, finds out that they have ended, and cuts off a server that is silent."""

import asyncio
import time

import psycopg
import pytest

from listener.db.connection import parameters
from listener.db.pool import Connection, Pool
from tests.support import wait_until
from tests.support.database import Database
from tests.support.network import Network

PID = "SELECT pg_backend_pid()"


async def nothing(conn: Connection) -> None:
    pass


async def pid(pool: Pool) -> int:
    async with pool.connection() as conn:
        row = await (await conn.execute(PID)).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_connection_is_used_again_and_one_that_has_ended_is_not(database: Database) -> None:
    pool = Pool(parameters(database.url), nothing, 2, patience=5)
    first = await pid(pool)
    assert await pid(pool) == first
    database.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
    assert await pid(pool) != first
    await pool.close()


async def test_no_more_connections_than_its_size(database: Database) -> None:
    pool = Pool(parameters(database.url), nothing, 2, patience=5)
    async with pool.connection() as one, pool.connection() as two:
        assert one is not two
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pool.connection():
                pass
    await pool.close()


async def test_a_silent_server_is_cut_off_and_patience_grows(database: Database) -> None:
    pool = Pool(parameters(database.url), nothing, 1, patience=0.5)
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0.5 s"):
        async with pool.connection() as conn:
            await conn.execute("SELECT pg_sleep(20)")
    assert time.monotonic() - begun < 5
    # The next has twice the time; after a success it is as short as before.
    async with pool.connection() as conn:
        await conn.execute("SELECT pg_sleep(0.7)")
    assert pool._patience_s == 0.5
    await pool.close()


async def test_a_pause_ends_with_the_first_success(database: Database) -> None:
    pool = Pool(parameters(database.url), nothing, 1, patience=5)
    with pytest.raises(psycopg.OperationalError):
        async with pool.connection():
            raise psycopg.OperationalError("lost")
    waiting = asyncio.create_task(pool.pause(30))
    await asyncio.sleep(0)
    await pid(pool)
    async with asyncio.timeout(5):
        await waiting
    await pool.close()


async def test_a_statement_is_cancelled_before_its_connection_is_cut(database: Database) -> None:
    """A backend that waits for a lock does not notice that its client is gone."""
    pool = Pool({**parameters(database.url), "application_name": "cut"}, nothing, 1, patience=0.3)
    database.execute("SELECT 1")  # in a session that is not the locker's
    locker = database.connect()
    locker.execute("BEGIN")
    locker.execute("LOCK public.plan")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with pool.connection() as conn:
                await conn.execute("SELECT FROM public.plan")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cut'"
    await asyncio.to_thread(wait_until, lambda: database.value(waiting) == 0, 10)
    assert locker.execute("SELECT 1").fetchall() == [(1,)]
    await pool.close()


async def test_a_network_that_swallows_everything_delays_the_cut_for_a_moment_only(database: Database) -> None:
    """The request to cancel is not answered either."""
    with Network(database.url) as network:
        pool = Pool(parameters(network.url), nothing, 1, patience=0.3)
        await pid(pool)
        network.cut()
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with pool.connection() as conn:
                await conn.execute("SELECT 1")
        assert time.monotonic() - begun < 5
        await pool.close()
