"""One connection to PostgreSQL that is listened to also while no query runs on it."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg

from listener.db.pool import limited

T = TypeVar("T")

_PATIENCE_S = 5.0
# An answer comes behind the notifications that were sent before. A session that has not caught up within this time falls
# behind, and would fill the server's queue (8 GB at 8 KB pages), without which nobody can commit a NOTIFY.
_BEHIND_S = 20.0
# One turn of the event loop reads libpq's buffer as often as that, at most.
_READS = 16


class ListenConnection(psycopg.AsyncConnection[Any]):
    """Hands out notifications also while a query waits for its answer.

    psycopg itself does so only once the answer is there. Until then libpq keeps all of them: behind a flood of large
    ones, a gigabyte in twelve seconds.
    """

    take: Callable[[], bool] | None = None

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **more: Any) -> T:
        """As psycopg's own, with `take` called at each step. It returns whether it has found any."""
        return await super().wait(self._taking(gen), *args, **more)

    def _taking(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        # It is psycopg that reads: once the answer is there, libpq only makes its buffer longer for what comes behind it.
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                for _ in range(_READS):
                    wanted = gen.send(ready)
                    if not (ready and self.take is not None and self.take() and wanted == ready):
                        break
        except StopIteration as end:
            result: T = end.value
            return result


class NotificationConnection:
    """Tells `heard` the payload of every notification, and `lost`, once, that the connection is no more.

    psycopg reads a connection only while a query runs on it. In between the event loop watches the socket for us.
    `used`: when the server last answered, on the loop's clock; `received`: when it last sent anything. `behind`: lost because
    notifications came faster than they could be read.
    """

    def __init__(self, conn: ListenConnection, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._conn = conn
        self._tell_lost = lost
        self._heard = heard
        self._watched: int | None = None
        self._is_lost = False
        self._turn = asyncio.Lock()
        self.behind = False
        self.used = self.received = self._loop.time()
        conn.add_notify_handler(lambda notify: heard(notify.payload))
        conn.take = self._take
        self._watch()

    @property
    def pid(self) -> int:
        return self._conn.info.backend_pid

    async def execute(self, query: str, values: Any = None) -> psycopg.AsyncCursor[Any]:
        """Raises what psycopg does, and `TimeoutError`; after that, and unless the server merely refused, the connection is lost.

        The server may be silent for 5 s. While it sends notifications, the answer may take longer, up to 20 s.
        """
        async with self._turn:
            if self._is_lost:
                raise psycopg.OperationalError("the LISTEN connection is down")
            self._unwatch()
            begun = self._loop.time()

            def patient_until() -> float:
                return min(max(begun, self.received) + _PATIENCE_S, begun + _BEHIND_S)

            try:
                with limited(self._conn, _PATIENCE_S, patient_until):
                    cursor = await self._conn.execute(query, values)
            except TimeoutError:
                self.behind = self._loop.time() - self.received < _PATIENCE_S
                self._lose()
                raise
            except psycopg.Error:
                # A server that has no memory left for a lock says so, and the session goes on.
                if self._conn.closed:
                    self._lose()
                raise
            finally:
                self._watch()
            self.used = self.received = self._loop.time()
            return cursor

    async def fetch(self, query: str, values: Any = None) -> Any:
        cursor = await self.execute(query, values)
        return await cursor.fetchone()

    async def close(self) -> None:
        self._unwatch()
        self._is_lost = True
        await self._conn.close()

    def _watch(self) -> None:
        if not self._is_lost and not self._conn.closed:
            self._watched = self._conn.fileno()
            self._loop.add_reader(self._watched, self._on_readable)

    def _unwatch(self) -> None:
        # By the number that was watched: libpq has closed the socket of a connection that failed. The loop does not
        # notice, and would be deaf to the next connection, which as a rule gets the same number.
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    def _on_readable(self) -> None:
        try:
            for _ in range(_READS):
                self._conn.pgconn.consume_input()
                if not self._take():
                    break
        except psycopg.Error:
            self._lose()

    def _take(self) -> bool:
        """Hand out what has been read. Return whether there was any."""
        self.received = self._loop.time()
        found = False
        while notify := self._conn.pgconn.notifies():
            found = True
            self._heard(notify.extra.decode(errors="replace"))
        return found

    def _lose(self) -> None:
        self._unwatch()
        if not self._is_lost:
            self._is_lost = True
            self._tell_lost()
