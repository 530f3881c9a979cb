"""The LISTEN connection: the bell, the gate, and the locks that show this worker alive.

The gate is the advisory lock (726354, 1). A capturing transaction takes it shared, and rings only when it cannot.
The leader holds it exclusively while it sleeps:

    wake.clear() → drain → close the gate
        refused:  a transaction that did not ring is still in flight; drain again in a moment
        granted:  drain once more, with a new snapshot; sleep until rung; open the gate at once

Every transaction that did not ring held the lock shared until its row was visible, so once the gate is closed the last
drain sees it; every later one finds the gate closed and rings. Without that second drain, a row that became visible
between the first drain and the lock is heard of by nobody.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

from listener.database import KEEPALIVES, is_pooled, one_line, parameters, translated
from listener.errors import PgheraldError
from listener.logs import log
from listener.retry import backoff

_GATE = "726354, 1"
_LEADER = "726354, 2"
_HEARING = 1.0


class Listener:
    """Keeps one direct connection to the primary. `wake` is set whenever there may be work."""

    def __init__(self, url: str, ring: Callable[[str], Awaitable[None]]) -> None:
        self._parameters = parameters(url, connect_timeout=5)
        self._ring = ring
        self.wake = asyncio.Event()
        self.ready = asyncio.Event()
        self.hearing = False
        self.leading = False
        self.locked = False
        self.gate_closed = False
        self.reconnects = -1
        self._conn: AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        # Opening runs beside the drain: who asks for the gate meanwhile must not take it for closed.
        self._gate = asyncio.Lock()
        self._lost = asyncio.Event()
        self._heard: asyncio.Event = asyncio.Event()
        self._token = ""
        self._session: tuple[int, Any] | None = None

    async def keep(self) -> None:
        """Connect, and connect again, until cancelled. Never gives up."""
        failures = 0
        try:
            while True:
                try:
                    with translated():
                        await self._connect()
                    failures = 0
                    await self._lost.wait()
                    log.warning("listen_lost")
                except PgheraldError as exc:
                    failures += 1
                    log.warning("listen_waits", error=str(exc))
                await self._drop()
                # The other daemons reconnect at the same moment: not all at once.
                await asyncio.sleep(backoff(failures or 1, first=0.1, longest=2.0))
        finally:
            await self._drop()

    async def _connect(self) -> None:
        conn: AsyncConnection[Any] = await AsyncConnection.connect(**self._parameters, autocommit=True)
        self._conn = conn
        conn.prepare_threshold = None
        row = await self._fetch("SELECT pg_is_in_recovery()")
        if row[0]:
            raise psycopg.OperationalError("connected to a standby, which cannot LISTEN; waiting for a primary")
        conn.add_notify_handler(self._on_notify)
        pooled = await is_pooled(conn)
        # LISTEN before anything else: what commits from here on is either drained or rings.
        await conn.execute("LISTEN pgherald")
        self._lost.clear()
        self._watch()
        self.hearing = await self._hears_itself()
        self.reconnects += 1
        if self.hearing:
            log.info("listening", pid=conn.info.backend_pid)
            await self._execute(KEEPALIVES)
            await self._end_previous()
            await self.lead()
        else:
            # Session locks taken through a transaction pooler would stay behind in somebody else's session: none are.
            log.warning(
                "not_listening",
                pooled=pooled,
                remedy="set database.listen_url to a direct connection; polling until then",
            )
        self.ready.set()
        self.wake.set()

    async def _end_previous(self) -> None:
        """End our own earlier session if the server still believes in it, and with it the locks it holds."""
        if self._session is not None:
            await self._execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s AND usename = current_user",
                self._session,
            )
        row = await self._fetch("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        self._session = (row[0], row[1])

    async def _hears_itself(self) -> bool:
        self._token = secrets.token_hex(8)
        self._heard.clear()
        try:
            async with asyncio.timeout(_HEARING):
                await self._ring(self._token)
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    def _on_notify(self, notify: psycopg.Notify) -> None:
        # The payload is anybody's. It means something only when it is the token that we have just sent.
        if self._token and notify.payload == self._token:
            self._heard.set()
        self.wake.set()

    # psycopg reads a connection only while a query runs on it. In between the event loop watches the socket for us.

    def _watch(self) -> None:
        if self._conn is not None and not self._conn.closed:
            asyncio.get_running_loop().add_reader(self._conn.fileno(), self._on_readable)

    def _unwatch(self) -> None:
        if self._conn is not None and not self._conn.closed:
            asyncio.get_running_loop().remove_reader(self._conn.fileno())

    def _on_readable(self) -> None:
        assert self._conn is not None
        try:
            self._conn.pgconn.consume_input()
            while notify := self._conn.pgconn.notifies():
                self._on_notify(
                    psycopg.Notify(notify.relname.decode(), notify.extra.decode(errors="replace"), notify.be_pid)
                )
        except psycopg.Error:
            self._unwatch()
            self._gone()

    def _gone(self) -> None:
        self.hearing = self.leading = self.locked = self.gate_closed = False
        self._lost.set()
        self.wake.set()

    async def _drop(self) -> None:
        self._unwatch()
        conn, self._conn = self._conn, None
        self._gone()
        if conn is not None:
            await conn.close()

    async def _execute(self, query: str, values: Any = None) -> psycopg.AsyncCursor[Any]:
        async with self._turn:
            if self._conn is None or self._conn.closed:
                raise psycopg.OperationalError("the LISTEN connection is down")
            self._unwatch()
            try:
                return await self._conn.execute(query, values)
            finally:
                if not self._lost.is_set():
                    self._watch()

    async def _fetch(self, query: str, values: Any = None) -> Any:
        cursor = await self._execute(query, values)
        return await cursor.fetchone()

    async def _lock(self, function: str, key: str) -> bool:
        """False as well when the connection is down: then nobody sleeps."""
        try:
            return bool((await self._fetch(f"SELECT {function}({key})"))[0])
        except psycopg.Error as exc:
            log.debug("lock_failed", error=one_line(exc))
            self._gone()
            return False

    async def lead(self) -> bool:
        """Become the one that works the gate, if nobody else is."""
        if self.hearing and not self.leading:
            self.leading = await self._lock("pg_try_advisory_lock", _LEADER)
            if self.leading:
                log.info("leading")
                self.wake.set()
        return self.leading

    async def show(self, worker: int) -> bool:
        """Hold the lock by which the others see that this worker's session is alive."""
        if self.hearing and not self.locked:
            self.locked = await self._lock("pg_try_advisory_lock", f"726355, {worker}")
        return self.locked

    async def close_gate(self) -> bool:
        async with self._gate:
            if self.leading and not self.gate_closed:
                self.gate_closed = await self._lock("pg_try_advisory_lock", _GATE)
            return self.gate_closed

    async def open_gate(self) -> None:
        async with self._gate:
            if self.gate_closed:
                await self._lock("pg_advisory_unlock", _GATE)
                self.gate_closed = False
