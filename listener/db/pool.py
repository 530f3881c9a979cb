"""A pool of database connections that connects on demand and detects silent servers."""

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import capabilities
from psycopg.pq import TransactionStatus

from listener.retry import wait

Connection = psycopg.AsyncConnection[Any]

# A database that moves to another host keeps its name. A connection that never ended would stay with the old host.
_MAX_AGE_S = 3600.0
# A server that is only slow gets up to this much time for an answer.
_MAX_PATIENCE_S = 60.0
# A server that is up cancels a statement within milliseconds. A silent one gets no more time than this.
_CANCEL_TIMEOUT_S = 1.0


class Pool:
    """At most `size` connections. The caller connects if none is free, and gets the server's own error if that fails.

    psycopg_pool connects in the background and, after a failure, retries at intervals that grow to half a minute. A
    caller would learn late that the database is back, and never why it was unavailable.

    `configure` sets up each new connection. `patience` is how long a connection may be in use, in seconds, before it
    counts as lost. It doubles after each timeout, so that a slow server gets its answer through in the end, and shrinks
    again with each success.
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
        self._min_patience_s = self._patience_s = patience
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self._available = True
        self._available_again = asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection, in autocommit. Raises what psycopg raises, and `TimeoutError`."""
        async with self._free:
            try:
                conn, made = await self._reusable() or (await self._connect(), time.monotonic())
                try:
                    with limited(conn, self._patience_s):
                        yield conn
                finally:
                    await self._put_back(conn, made)
            except (psycopg.OperationalError, psycopg.InternalError, OSError) as exc:
                if isinstance(exc, TimeoutError):
                    self._patience_s = min(2 * self._patience_s, _MAX_PATIENCE_S)
                self._available = False
                raise
        self._patience_s = max(self._min_patience_s, self._patience_s / 2)
        if not self._available:
            self._available = True
            self._available_again.set()
            self._available_again = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, no longer than until another caller's try has succeeded."""
        await wait(self._available_again, seconds)

    async def close(self) -> None:
        """Close all idle connections now, and the others when they are put back."""
        self._closed = True
        await self._close_idle()

    async def _connect(self) -> Connection:
        conn: Connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            with limited(conn, self._patience_s):
                await self._configure(conn)
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _reusable(self) -> tuple[Connection, float] | None:
        # The one used last comes first, so that connections beyond the usual number age and end.
        while self._idle:
            conn, made = self._idle.pop()
            if not conn.closed and not _is_readable(conn) and time.monotonic() - made < _MAX_AGE_S:
                return conn, made
            await conn.close()
        return None

    async def _put_back(self, conn: Connection, made: float) -> None:
        if not conn.closed and not self._closed and conn.pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append((conn, made))
            return
        await conn.close()
        # The others have most likely ended for the same reason. Otherwise one caller after another would have to find
        # out.
        await self._close_idle()

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for conn, _ in idle:
            await conn.close()


@contextmanager
def limited(conn: Connection, seconds: float, until: Callable[[], float] | None = None) -> Iterator[None]:
    """Close the connection's socket if the block takes longer than `seconds`. Raise `TimeoutError` then.

    The statement is cancelled first. A backend that waits for a lock does not notice that its client is gone, and each
    such connection would leave one behind. `until` is called when the time is over. It may return a later end, on the
    loop's clock.

    Cancelling the task would not do: psycopg then asks the server to cancel the query, and waits for its answer.
    """
    loop = asyncio.get_running_loop()
    cuts: list[_Cut] = []
    timer: asyncio.TimerHandle

    def cut() -> None:
        nonlocal timer
        if until is not None and (end := until()) > loop.time():
            timer = loop.call_at(end, cut)
        elif not conn.closed:
            cuts.append(_Cut(conn))

    timer = loop.call_later(seconds, cut)
    try:
        yield
    except psycopg.Error as exc:
        if cuts:
            raise TimeoutError(f"no answer within {seconds:g} s") from exc
        raise
    finally:
        timer.cancel()
        for each in cuts:
            each.finish()


class _Cut:
    """Ask the server to cancel the statement, for a moment, then shut the connection's socket down."""

    def __init__(self, conn: Connection) -> None:
        # A file descriptor of its own, because psycopg closes the connection's once it has failed.
        self._socket = socket.socket(fileno=os.dup(conn.fileno()))
        self._task = asyncio.create_task(self._cancel(conn), name="cancel a statement")

    async def _cancel(self, conn: Connection) -> None:
        try:
            # Without libpq 17, psycopg would ask in a thread that has no time limit.
            if capabilities.has_cancel_safe():
                await conn.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
        except (psycopg.Error, OSError):
            # The server is silent or gone, and finds out by itself that its client is.
            pass
        finally:
            self._shut_down()

    def finish(self) -> None:
        """Cut now. A late request could cancel the next statement of the connection."""
        self._task.cancel()
        self._shut_down()
        self._socket.close()

    def _shut_down(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _is_readable(conn: Connection) -> bool:
    """Return whether the server has sent something on an idle connection: usually that it ends the session."""
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    return bool(poll.poll(0))
