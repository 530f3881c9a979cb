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
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg

from listener import metrics
from listener.database import KEEPALIVES, connect_async, is_pooled, is_shared, one_line, refuse_standby, translated
from listener.direct import Direct
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.pool import limited
from listener.retry import Trouble

_GATE = "726354, 1"
_LEADER = "726354, 2"
_HEARING = 1.0
_HEAR_AGAIN = 10.0
_PROVE = 5.0
_TICK = 0.25
_BEAT = 2.5
_PATIENCE = 5.0
# A connection that lasted for so long was a good one; what comes after it is not more of the same trouble.
_LASTED = 5.0


class Listener:
    """Keeps one direct connection to the primary. `wake` is set whenever there may be work.

    `changed` is set with `hearing` and `locked`. `peers`: the other workers, as last counted by who looks for them.
    `heard_at`: when it last heard its own ring, on the loop's clock. `deaf`: connected, and found not to hear it.
    """

    def __init__(self, url: str, ring: Callable[[str], Awaitable[None]]) -> None:
        self.wake = asyncio.Event()
        self.ready = asyncio.Event()
        self.changed = asyncio.Event()
        self.hearing = False
        self.leading = False
        self.locked = False
        self.gate_closed = False
        self.reconnects = -1
        self.peers = 0
        self._url = url
        self._ring = ring
        self._worker: int | None = None
        self._direct: Direct | None = None
        # Opening runs beside the drain: who asks for the gate meanwhile must not take it for closed.
        self._gate = asyncio.Lock()
        self._lost = asyncio.Event()
        self._heard = asyncio.Event()
        self._token = ""
        self._tried = 0.0
        self.deaf = False
        self.heard_at = -math.inf
        self._session: tuple[int, Any] | None = None

    async def keep(self) -> None:
        """Connect, and connect again, until cancelled. Never gives up."""
        away = Trouble("listen_waits", first=0.1, longest=1.0)
        lost = Trouble("listen_lost", first=0.1, longest=1.0)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    with translated():
                        if await self._connect():
                            await self._tend()
                    pause = _HEAR_AGAIN
                except _Lost as exc:
                    if clock() - began > _LASTED:
                        away.over()
                        lost.over()
                    pause = lost.met(exc)
                except PgheraldError as exc:
                    pause = away.met(exc)
                await self._drop()
                # The other daemons reconnect at the same moment: not all at once.
                await asyncio.sleep(pause)
        finally:
            await self._drop()

    async def _connect(self) -> bool:
        """False behind a pooler through which nobody can LISTEN: nothing was asked of it that would stay behind there."""
        conn = await connect_async(self._url)
        conn.prepare_threshold = None
        try:
            with limited(conn, _PATIENCE):
                await refuse_standby(conn)
                pooled = await is_pooled(conn)
                if pooled and await is_shared(conn, self._url):
                    self._say_deaf(pooled=True)
                    await conn.close()
                    return False
                # LISTEN before anything else: what commits from here on is either drained or rings.
                await conn.execute("LISTEN pgherald")
        except BaseException:
            await conn.close()
            raise
        self._lost.clear()
        self._direct = Direct(conn, self._on_notify, self._gone)
        self.reconnects += 1
        if self.reconnects:
            metrics.reconnected()
        await self._hear(self._direct, pooled=pooled)
        return True

    async def _hear(self, direct: Direct, *, pooled: bool) -> None:
        """Ring, and find out whether it is heard."""
        self._tried = asyncio.get_running_loop().time()
        try:
            heard = await self._hears_itself()
        except PgheraldError:
            # Who rings has another connection; that it is away is said by those who need it more.
            return
        if not heard:
            self._say_deaf(pooled=pooled)
            return
        log.info("listening", pid=direct.pid)
        # Locks and settings of the session only now: through a pooler they could stay behind in somebody else's.
        await direct.execute(KEEPALIVES)
        await self._end_previous(direct)
        self.hearing, self.deaf = True, False
        await self.lead()
        await self.show()
        self.changed.set()
        self.ready.set()
        self.wake.set()

    async def _hears_itself(self) -> bool:
        self._token = secrets.token_hex(8)
        self._heard.clear()
        await self._ring(self._token)
        try:
            async with asyncio.timeout(_HEARING):
                await self._heard.wait()
        except TimeoutError:
            return False
        self.heard_at = asyncio.get_running_loop().time()
        return True

    def _say_deaf(self, *, pooled: bool) -> None:
        if not self.deaf:
            self.deaf = True
            log.warning(
                "not_listening",
                pooled=pooled,
                remedy="set database.listen_url to a direct connection; polling until then",
            )
        self.ready.set()
        self.wake.set()

    async def _end_previous(self, direct: Direct) -> None:
        """End our own earlier session if the server still believes in it, and with it the locks it holds."""
        if self._session is not None:
            await direct.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s AND usename = current_user",
                self._session,
            )
        row = await direct.fetch("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        self._session = (row[0], row[1])

    async def _tend(self) -> None:
        """Hold what there is to hold, until the connection is lost. Raises `_Lost`."""
        # Beside the rest, since a ring goes another way, which may be slow while this one needs tending.
        proving = asyncio.create_task(self._prove())
        try:
            await self._hold()
        finally:
            proving.cancel()

    async def _prove(self) -> None:
        """Ring and listen for it, again and again: a connection that seems well may hear nothing any more."""
        while True:
            await asyncio.sleep(_PROVE)
            if self.hearing:
                with suppress(PgheraldError):
                    await self._hears_itself()

    async def _hold(self) -> None:
        clock = asyncio.get_running_loop().time
        while not self._lost.is_set() and self._direct is not None:
            if not self.hearing and clock() - self._tried > _HEAR_AGAIN:
                await self._hear(self._direct, pooled=False)
            await self.lead()
            await self.show()
            if clock() - self._direct.used > _BEAT:
                # A connection may die without a sign. Who only listens would never know.
                await self._got("SELECT true")
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._lost.wait()
        raise _Lost("the LISTEN connection was lost")

    def _on_notify(self, payload: str) -> None:
        # A payload is anybody's: a daemon's own ring, by which it finds out that it hears, and ours if it is the token
        # that we have just sent. Who has captured an event sends none.
        if payload:
            if payload == self._token:
                self._heard.set()
            return
        if not self.wake.is_set():
            metrics.woken("ring")
        self.wake.set()

    def _gone(self) -> None:
        self.hearing = self.leading = self.locked = self.gate_closed = False
        self.changed.set()
        self._lost.set()
        self.wake.set()

    async def _drop(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            await direct.close()
        self._gone()

    async def _got(self, query: str) -> bool:
        """What a query says whose answer is yes or no. No as well when the connection is down: then nobody sleeps."""
        if self._direct is None:
            return False
        try:
            return bool((await self._direct.fetch(query))[0])
        except (psycopg.Error, TimeoutError) as exc:
            log.debug("lock_failed", error=one_line(exc))
            return False

    async def lead(self) -> bool:
        """Become the one that works the gate, if nobody else is."""
        if self.hearing and not self.leading:
            self.leading = await self._got(f"SELECT pg_try_advisory_lock({_LEADER})")
            if self.leading:
                log.info("leading")
                self.wake.set()
        return self.leading

    def shows(self, worker: int) -> None:
        """From now on it is this worker's lock that is to be held."""
        self._worker, self.locked = worker, False

    async def show(self) -> None:
        """Hold the lock by which the others see that this worker's session is alive."""
        worker = self._worker
        if self.hearing and not self.locked and worker is not None:
            locked = await self._got(f"SELECT pg_try_advisory_lock(726355, {worker})")
            # It may have got another number meanwhile.
            if locked and worker == self._worker:
                self.locked = True
                self.changed.set()

    async def close_gate(self) -> bool:
        async with self._gate:
            if self.leading and not self.gate_closed:
                self.gate_closed = await self._got(f"SELECT pg_try_advisory_lock({_GATE})")
            return self.gate_closed

    async def open_gate(self) -> None:
        async with self._gate:
            if self.gate_closed:
                await self._got(f"SELECT pg_advisory_unlock({_GATE})")
                self.gate_closed = False


class _Lost(DatabaseUnavailable):
    """It was connected, and is no more."""
