"""The LISTEN connection: the bell, the gate, and the locks that show this worker alive.

The gate is the advisory lock (726354, 1). A capturing transaction takes it shared, and rings only when it cannot.
The leader holds it exclusively while it sleeps:

    wake.clear() → drain → close the gate
        refused:  a transaction that did not ring is still in flight; drain again in a moment
        granted:  drain once more, with a new snapshot; sleep until rung; open the gate at once

Every transaction that did not ring held the lock shared until its row was visible, so once the gate is closed the last
drain sees it; every later one finds the gate closed and rings. Without that second drain, a row that became visible
between the first drain and the lock is heard of by nobody.

Advisory locks and the channel are anybody's. `is_rung` tells whether a commit wakes this worker at once: not while a
stranger holds the leader's lock, and not behind a flood of notifications. The worker then sleeps for a second at most.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg

from listener import metrics
from listener.db.connection import KEEPALIVES, connect_as, is_pooled, is_shared, one_line, refuse_standby, translated
from listener.db.pool import limited
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.notify.connection import Direct, ListenConnection
from listener.notify.gate import Gate
from listener.retry import Trouble

_LEADER = "726354, 2"
_HEARING = 1.0
_HEAR_AGAIN = 10.0
_PROVE = 5.0
_TICK = 0.25
_BEAT = 2.5
_PATIENCE = 5.0
# A connection that lasted for so long was a good one; what comes after it is not more of the same trouble.
_LASTED = 5.0
# So many rings by others, none of them for work, within so many seconds are a flood: a daemon rings itself every 5 s. It
# may let little through for a while: a session that is to hear all of it gets the server's locks late.
_FLOOD = 256
_FLOOD_WITHIN_S = 10.0
_FLOOD_ENDS_S = 60.0
# An application's transaction holds the gate for a moment. What holds it for longer is worth a look.
_REFUSED_S = 0.5
# Long enough for two looks at who has taken this worker's own lock.
_TAKEN_S = 5.0


class Listener:
    """Keeps one direct connection to the primary. `wake` is set whenever there may be work.

    `changed` is set with `hearing`, `leading`, `locked` and `lock_taken`. `peers`: the other workers, as last counted by who
    looks for them. `heard_at`: when it last heard its own ring, on the loop's clock. `deaf`: connected, and found not to hear
    it. `lock_taken`: another session holds the lock that is to show this worker. `gate_taken`: a stranger keeps the gate
    closed, as last seen by who looks for that.
    """

    def __init__(self, url: str, ring: Callable[[str], Awaitable[None]]) -> None:
        self.wake = asyncio.Event()
        self.ready = asyncio.Event()
        self.changed = asyncio.Event()
        self.hearing = False
        self.leading = False
        self.locked = False
        self.lock_taken = False
        self.gate_taken = False
        self.reconnects = -1
        self.peers = 0
        self._url = url
        self._ring = ring
        self._lock: int | None = None
        self._led = False
        self._direct: Direct | None = None
        self._gate = Gate(self._got, lambda: self.leading)
        self._taken_at = -math.inf
        self._others, self._others_since = 0, -math.inf
        self._flooded_until = -math.inf
        self._lost = asyncio.Event()
        self._heard = asyncio.Event()
        self._token = ""
        self._tried = 0.0
        self.deaf = False
        self.heard_at = -math.inf
        self._session: tuple[int, Any] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process of this session, as itself says: a pooler makes up the one that it tells at connect."""
        return self._session[0] if self.hearing and self._session is not None else None

    @property
    def is_rung(self) -> bool:
        """Whether whoever commits an event wakes this worker at once: the gate is worked, and rings are heard in time."""
        now = asyncio.get_running_loop().time()
        return self.hearing and now > self._flooded_until and (self._gate.closed if self.leading else self._led)

    @property
    def suspects(self) -> bool:
        """Whether a stranger may hold a lock of ours."""
        now = asyncio.get_running_loop().time()
        if self.leading:
            return now - self._gate.refused_since > _REFUSED_S or now - self._taken_at < _TAKEN_S
        return (self.hearing and not self._led) or now - self._taken_at < _TAKEN_S

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
                    pause = _HEAR_AGAIN if exc.for_long else 0.0
                    pause = max(pause, lost.met(exc))
                except PgheraldError as exc:
                    pause = away.met(exc)
                await self._drop()
                # The other daemons reconnect at the same moment: not all at once.
                await asyncio.sleep(pause)
        finally:
            await self._drop()

    async def _connect(self) -> bool:
        """False behind a pooler through which nobody can LISTEN: nothing was asked of it that would stay behind there."""
        conn = await connect_as(ListenConnection, self._url)
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
        # Locks and settings of the session only now: through a pooler they could stay behind in somebody else's.
        await direct.execute(KEEPALIVES)
        await self._end_previous(direct)
        log.info("listening", pid=direct.pid)
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
        clock = asyncio.get_running_loop().time
        end = clock() + _HEARING
        # Behind a flood it may take longer: as long as something comes, this one hears.
        longest = end + _PATIENCE
        while not self._heard.is_set() and (left := end - clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._heard.wait()
            if self._direct is not None and clock() < self._flooded_until:
                end = min(self._direct.received + _HEARING, longest)
        if not self._heard.is_set():
            return False
        self.heard_at = clock()
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
        if self._direct is not None and self._direct.behind:
            raise _Lost("notifications on channel pgherald come faster than they can be read; polling", for_long=True)
        raise _Lost("the LISTEN connection was lost")

    def _on_notify(self, payload: str) -> None:
        # A payload is anybody's: a daemon's own ring, by which it finds out that it hears, and ours if it is the token
        # that we have just sent. Who has captured an event sends none.
        if payload:
            if payload == self._token:
                self._heard.set()
            else:
                self._count_others()
            return
        if not self.wake.is_set():
            metrics.woken("ring")
        self.wake.set()

    def _count_others(self) -> None:
        self._others += 1
        if self._others < _FLOOD:
            return
        now = asyncio.get_running_loop().time()
        if now - self._others_since < _FLOOD_WITHIN_S:
            if now > self._flooded_until:
                # Whoever sleeps until it is rung must not go on with that.
                self.wake.set()
            self._flooded_until = now + _FLOOD_ENDS_S
        self._others, self._others_since = 0, now

    def _gone(self) -> None:
        self.hearing = self.leading = self.locked = False
        self._gate.lost()
        self.changed.set()
        self._lost.set()
        self.wake.set()

    async def _drop(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            await direct.close()
        self._gone()

    async def _asked(self, query: str) -> bool | None:
        """What a query says whose answer is yes or no; None where there is no answer."""
        if self._direct is None:
            return None
        try:
            return bool((await self._direct.fetch(query))[0])
        except (psycopg.Error, TimeoutError) as exc:
            log.debug("lock_failed", error=one_line(exc))
            return None

    async def _got(self, query: str) -> bool:
        """As `_asked`, and no where there is no answer: then nobody sleeps."""
        return await self._asked(query) or False

    async def lead(self) -> bool:
        """Become the one that works the gate, if nobody else is."""
        if self.hearing and not self.leading:
            self.leading = await self._got(f"SELECT pg_try_advisory_lock({_LEADER})")
            if self.leading:
                log.info("leading")
                self.changed.set()
                self.wake.set()
        return self.leading

    def meets(self, peers: int, *, led: bool) -> None:
        """Note how many other workers there are, and whether one of them leads. Without a leader nobody is rung."""
        if self._led and not led:
            self.wake.set()
        self.peers, self._led = peers, led

    def shows(self, lock: int) -> None:
        """From now on the lock of this number is to be held."""
        self._lock, self.locked, self.lock_taken = lock, False, False

    async def show(self) -> None:
        """Hold the lock by which the others see that this worker's session is alive."""
        lock = self._lock
        if self.hearing and not self.locked and not self.lock_taken and lock is not None:
            locked = await self._asked(f"SELECT pg_try_advisory_lock(726355, {lock})")
            # It may have got another number meanwhile.
            if locked is None or lock != self._lock:
                return
            self.locked, self.lock_taken = locked, not locked
            if self.lock_taken:
                self._taken_at = asyncio.get_running_loop().time()
            self.changed.set()

    async def close_gate(self) -> bool:
        """As `Gate.close`; only the leader may."""
        return self.leading and await self._gate.close()

    async def open_gate(self) -> None:
        """As `Gate.open`."""
        await self._gate.open()


class _Lost(DatabaseUnavailable):
    """It was connected, and is no more. `for_long`: to be left alone for a while."""

    def __init__(self, why: str, *, for_long: bool = False) -> None:
        super().__init__(why)
        self.for_long = for_long
