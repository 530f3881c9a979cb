"""A connection to PostgreSQL whose notifications are read also while no query runs on it."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg

from listener.db.pool import limited
from listener.errors import DatabaseUnavailable
from listener.retry import wait

T = TypeVar("T")

_TIMEOUT_S = 5.0
# The answer to a query comes behind the notifications that were sent before it. A session that does not catch up within
# this time would fill the server's notification queue (8 GB with 8 KB pages). Then nobody can commit a NOTIFY.
_FLOODED_TIMEOUT_S = 20.0
# Reads of libpq's buffer in one iteration of the event loop, so that other tasks get their turn.
_MAX_READS = 16


class ListenConnection(psycopg.AsyncConnection[Any]):
    """Hand out notifications also while a query waits for its answer.

    psycopg itself hands them out only once the answer is there. Until then libpq keeps them all. Behind a flood of
    large ones that was a gigabyte in twelve seconds.
    """

    take: Callable[[], bool] | None = None

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **more: Any) -> T:
        """Do as psycopg does, and call `take` at each step. `take` returns whether it found a notification."""
        return await super().wait(self._taking(gen), *args, **more)

    def _taking(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        # psycopg reads the socket. Once the answer is there, libpq would only grow its buffer for what follows.
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                for _ in range(_MAX_READS):
                    wanted = gen.send(ready)
                    if not (ready and self.take is not None and self.take() and wanted == ready):
                        break
        except StopIteration as end:
            result: T = end.value
            return result


class Disconnected(DatabaseUnavailable):
    """The connection was up, and is lost. `is_flooded`: leave the channel alone for a while."""

    def __init__(self, why: str, *, is_flooded: bool = False) -> None:
        super().__init__(why)
        self.is_flooded = is_flooded


class NotificationConnection:
    """Call `heard` with the payload of every notification, and `lost` once when the connection is lost.

    psycopg reads a connection only while a query runs on it. In between, the event loop watches the socket for us.

    `used` is when the server last answered, and `received` when it last sent anything, both on the loop's clock.
    `is_flooded`: the connection was lost because notifications came faster than they could be read.
    """

    def __init__(self, conn: ListenConnection, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._conn = conn
        self._heard = heard
        self._on_lost = lost
        self._watched: int | None = None
        self._lost = asyncio.Event()
        self._turn = asyncio.Lock()
        self.is_flooded = False
        self.used = self.received = self._loop.time()
        conn.add_notify_handler(lambda notify: heard(notify.payload))
        conn.take = self._take
        self._watch()

    @property
    def pid(self) -> int:
        """Process ID of the backend, as told at connect."""
        return self._conn.info.backend_pid

    @property
    def is_lost(self) -> bool:
        """Return whether the connection is closed or was lost."""
        return self._lost.is_set()

    async def wait_until_lost(self, timeout: float) -> None:
        """Wait until the connection is lost, for `timeout` seconds at most."""
        await wait(self._lost, timeout)

    async def execute(self, query: str, values: Any = None) -> psycopg.AsyncCursor[Any]:
        """Run a query.

        The server may keep silent for 5 s. While it sends notifications the answer may take up to 20 s.

        Raises:
            psycopg.Error: the server refused the query, or the connection is lost.
            TimeoutError: no answer came in time. The connection is lost then.
        """
        async with self._turn:
            if self.is_lost:
                raise psycopg.OperationalError("the LISTEN connection is down")
            self._unwatch()
            begun = self._loop.time()

            def answer_due_at() -> float:
                return min(max(begun, self.received) + _TIMEOUT_S, begun + _FLOODED_TIMEOUT_S)

            try:
                with limited(self._conn, _TIMEOUT_S, answer_due_at):
                    cursor = await self._conn.execute(query, values)
            except TimeoutError:
                self.is_flooded = self._loop.time() - self.received < _TIMEOUT_S
                self._lose()
                raise
            except psycopg.Error:
                # A server without memory for another lock says so, and the session goes on.
                if self._conn.closed:
                    self._lose()
                raise
            finally:
                self._watch()
            self.used = self.received = self._loop.time()
            return cursor

    async def fetch(self, query: str, values: Any = None) -> Any:
        """Run a query as `execute` does, and return its first row."""
        cursor = await self.execute(query, values)
        return await cursor.fetchone()

    async def session(self) -> tuple[int, Any]:
        """Return process ID and start of this session's backend, as the server sees them.

        A pooler tells another process ID at connect.
        """
        row = await self.fetch("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        return row[0], row[1]

    async def end_session(self, session: tuple[int, Any]) -> None:
        """Terminate another session of this role, if the server does not know yet that it is gone."""
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid = %s AND backend_start = %s AND usename = current_user",
            session,
        )

    async def close(self) -> None:
        """Close the connection. `lost` is not called."""
        self._unwatch()
        self._lost.set()
        await self._conn.close()

    def _watch(self) -> None:
        if not self.is_lost and not self._conn.closed:
            self._watched = self._conn.fileno()
            self._loop.add_reader(self._watched, self._on_readable)

    def _unwatch(self) -> None:
        # By the number that was watched: libpq has closed the socket of a connection that failed. The loop does not
        # notice, and would not watch the next connection, which usually gets the same number.
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    def _on_readable(self) -> None:
        try:
            for _ in range(_MAX_READS):
                self._conn.pgconn.consume_input()
                if not self._take():
                    break
        except psycopg.Error:
            self._lose()

    def _take(self) -> bool:
        """Hand out the notifications that have been read. Return whether there was one."""
        self.received = self._loop.time()
        found = False
        while notify := self._conn.pgconn.notifies():
            found = True
            self._heard(notify.extra.decode(errors="replace"))
        return found

    def _lose(self) -> None:
        self._unwatch()
        if not self.is_lost:
            self._lost.set()
            self._on_lost()
