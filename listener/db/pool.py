"""Connections to the database, kept for whoever needs one next."""

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

Connection = psycopg.AsyncConnection[Any]

# Whoever moves a database moves its name; a connection that never ends would stay with the old one.
_AGE = 3600.0
_MOST_PATIENT = 60.0


class Pool:
    """At most `size` connections. Who needs one makes it, and hears in the server's own words why that fails.

    psycopg_pool connects in the background, after a failure at a pace of its own that slows down to half a minute:
    whoever waits for it learns late that the database is back, and never why it was away.

    `patience`: seconds for which a connection may be in use before it counts as lost.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        configure: Callable[[Connection], Awaitable[None]],
        size: int,
        *,
        patience: float,
    ) -> None:
        self._parameters = parameters
        self._configure = configure
        self._free = asyncio.Semaphore(size)
        self._shortest = self._patience = patience
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self._works = True
        self._works_again = asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """In autocommit. Raises what psycopg does, and `TimeoutError`."""
        async with self._free:
            try:
                conn, made = await self._reusable() or (await self._connect(), time.monotonic())
                try:
                    with limited(conn, self._patience):
                        yield conn
                finally:
                    await self._put_back(conn, made)
            except (psycopg.OperationalError, psycopg.InternalError, OSError) as exc:
                if isinstance(exc, TimeoutError):
                    # A server that is only slow gets its answer through in the end.
                    self._patience = min(2 * self._patience, _MOST_PATIENT)
                self._works = False
                raise
        self._patience = max(self._shortest, self._patience / 2)
        if not self._works:
            self._works = True
            self._works_again.set()
            self._works_again = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, no longer than until somebody else's has worked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._works_again.wait()

    async def close(self) -> None:
        self._closed = True
        await self._forget()

    async def _connect(self) -> Connection:
        conn: Connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            with limited(conn, self._patience):
                await self._configure(conn)
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _reusable(self) -> tuple[Connection, float] | None:
        # The last used first.
        while self._idle:
            conn, made = self._idle.pop()
            if not conn.closed and not _has_news(conn) and time.monotonic() - made < _AGE:
                return conn, made
            await conn.close()
        return None

    async def _put_back(self, conn: Connection, made: float) -> None:
        if not conn.closed and not self._closed and conn.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append((conn, made))
            return
        await conn.close()
        # What ended this one has most likely ended the others, and one after the other would find that out.
        await self._forget()

    async def _forget(self) -> None:
        idle, self._idle = self._idle, []
        for conn, _ in idle:
            await conn.close()


@contextmanager
def limited(conn: Connection, seconds: float, until: Callable[[], float] | None = None) -> Iterator[None]:
    """Cut the connection when its server, or the network, keeps silent for so long. Raises `TimeoutError` then.

    `until`: asked when the time is over, it may name a later end, on the loop's clock.

    Cancelling would not do: psycopg then asks the server to end the query, and waits for its answer.
    """
    silent = False
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def cut() -> None:
        nonlocal silent, timer
        if until is not None and (end := until()) > loop.time():
            timer = loop.call_at(end, cut)
            return
        silent = True
        if not conn.closed:
            with socket.socket(fileno=os.dup(conn.fileno())) as sock, suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    timer = loop.call_later(seconds, cut)
    try:
        yield
    except psycopg.Error as exc:
        if silent:
            raise TimeoutError(f"no answer within {seconds:g} s") from exc
        raise
    finally:
        timer.cancel()


def _has_news(conn: Connection) -> bool:
    """Return whether an idle connection has something to say: as a rule, that the server has ended it."""
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    return bool(poll.poll(0))
