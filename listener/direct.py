"""One connection to PostgreSQL that is listened to also while no query runs on it."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from listener.pool import Connection, limited

_PATIENCE = 5.0


class Direct:
    """Tells `heard` the payload of every notification, and `lost`, once, that the connection is no more.

    psycopg reads a connection only while a query runs on it. In between the event loop watches the socket for us.
    `used`: when the server last answered, on the loop's clock.
    """

    def __init__(self, conn: Connection, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._conn = conn
        self._tell_lost = lost
        self._heard = heard
        self._watched: int | None = None
        self._is_lost = False
        self._turn = asyncio.Lock()
        self.used = self._loop.time()
        conn.add_notify_handler(lambda notify: heard(notify.payload))
        self._watch()

    @property
    def pid(self) -> int:
        return self._conn.info.backend_pid

    async def execute(self, query: str, values: Any = None) -> psycopg.AsyncCursor[Any]:
        """Raises what psycopg does, and `TimeoutError`; the connection is lost then."""
        async with self._turn:
            if self._is_lost:
                raise psycopg.OperationalError("the LISTEN connection is down")
            self._unwatch()
            try:
                with limited(self._conn, _PATIENCE):
                    cursor = await self._conn.execute(query, values)
            except (psycopg.Error, TimeoutError):
                self._lose()
                raise
            finally:
                self._watch()
            self.used = self._loop.time()
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
            self._conn.pgconn.consume_input()
            while notify := self._conn.pgconn.notifies():
                self._heard(notify.extra.decode(errors="replace"))
        except psycopg.Error:
            self._lose()

    def _lose(self) -> None:
        self._unwatch()
        if not self._is_lost:
            self._is_lost = True
            self._tell_lost()
