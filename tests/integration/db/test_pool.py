"""A pool reuses connections, finds out that they have ended, and cuts off a server that is silent."""

import asyncio
import time

import psycopg
import pytest

from listener.db.connection import parameters
from listener.db.pool import Connection, Pool
from tests.support.database import Database

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
