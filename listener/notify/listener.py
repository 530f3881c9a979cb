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
from listener.db.connection import (
    KEEPALIVES,
    connect_as,
    is_pooled,
    is_shared,
    refuse_standby,
    summary,
    translate_errors,
)
from listener.db.pool import limited
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.notify.connection import ListenConnection, NotificationConnection
from listener.notify.gate import Gate
from listener.outage import Outage

_LEADER = "726354, 2"
_SELF_TEST_TIMEOUT_S = 1.0
_SELF_TEST_RETRY_S = 10.0
_SELF_TEST_INTERVAL_S = 5.0
_TICK_S = 0.25
_LIVENESS_INTERVAL_S = 2.5
_QUERY_TIMEOUT_S = 5.0
# A connection that lasted for so long was a good one; what comes after it is not more of the same trouble.
_STABLE_AFTER_S = 5.0
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
        self.listening = False
        self.is_leader = False
        self.has_presence_lock = False
        self.presence_lock_taken = False
        self.gate_held_by_stranger = False
        self.reconnects = -1
        self.peers = 0
        self._url = url
        self._ring = ring
        self._lock: int | None = None
        self._peer_leads = False
        self._connection: NotificationConnection | None = None
        self._gate = Gate(self._is_true, lambda: self.is_leader)
        self._taken_at = -math.inf
        self._others, self._others_since = 0, -math.inf
        self._flooded_until = -math.inf
        self._lost = asyncio.Event()
        self._ring_received = asyncio.Event()
        self._token = ""
        self._self_tested_at = 0.0
        self.unreachable = False
        self.self_test_passed_at = -math.inf
        self._session: tuple[int, Any] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process of this session, as itself says: a pooler makes up the one that it tells at connect."""
        return self._session[0] if self.listening and self._session is not None else None

    @property
    def is_rung(self) -> bool:
        """Whether whoever commits an event wakes this worker at once: the gate is worked, and rings are heard in time."""
        now = asyncio.get_running_loop().time()
        return (
            self.listening and now > self._flooded_until and (self._gate.closed if self.is_leader else self._peer_leads)
        )

    @property
    def suspects_stranger(self) -> bool:
        """Whether a stranger may hold a lock of ours."""
        now = asyncio.get_running_loop().time()
        if self.is_leader:
            return now - self._gate.refused_since > _REFUSED_S or now - self._taken_at < _TAKEN_S
        return (self.listening and not self._peer_leads) or now - self._taken_at < _TAKEN_S

    async def keep(self) -> None:
        """Connect, and connect again, until cancelled. Never gives up."""
        away = Outage("listen_connect_failed", first=0.1, longest=1.0)
        lost = Outage("listen_disconnected", first=0.1, longest=1.0)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    with translate_errors():
                        if await self._connect():
                            await self._tend()
                    pause = _SELF_TEST_RETRY_S
                except _Lost as exc:
                    if clock() - began > _STABLE_AFTER_S:
                        away.recovered()
                        lost.recovered()
                    pause = _SELF_TEST_RETRY_S if exc.for_long else 0.0
                    pause = max(pause, lost.failed(exc))
                except PgheraldError as exc:
                    pause = away.failed(exc)
                await self._disconnect()
                # The other daemons reconnect at the same moment: not all at once.
                await asyncio.sleep(pause)
        finally:
            await self._disconnect()

    async def _connect(self) -> bool:
        """False behind a pooler through which nobody can LISTEN: nothing was asked of it that would stay behind there."""
        conn = await connect_as(ListenConnection, self._url)
        try:
            with limited(conn, _QUERY_TIMEOUT_S):
                await refuse_standby(conn)
                pooled = await is_pooled(conn)
                if pooled and await is_shared(conn, self._url):
                    self._set_unreachable(pooled=True)
                    await conn.close()
                    return False
                # LISTEN before anything else: what commits from here on is either drained or rings.
                await conn.execute("LISTEN pgherald")
        except BaseException:
            await conn.close()
            raise
        self._lost.clear()
        self._connection = NotificationConnection(conn, self._on_notify, self._on_lost)
        self.reconnects += 1
        if self.reconnects:
            metrics.reconnected()
        await self._self_test(self._connection, pooled=pooled)
        return True

    async def _self_test(self, direct: NotificationConnection, *, pooled: bool) -> None:
        """Ring, and find out whether it is heard."""
        self._self_tested_at = asyncio.get_running_loop().time()
        try:
            heard = await self._receives_own_ring()
        except PgheraldError:
            # Who rings has another connection; that it is away is said by those who need it more.
            return
        if not heard:
            self._set_unreachable(pooled=pooled)
            return
        # Locks and settings of the session only now: through a pooler they could stay behind in somebody else's.
        await direct.execute(KEEPALIVES)
        await self._end_previous(direct)
        log.info("listening", pid=direct.pid)
        self.listening, self.unreachable = True, False
        await self.acquire_leader_lock()
        await self.acquire_presence_lock()
        self.changed.set()
        self.ready.set()
        self.wake.set()

    async def _receives_own_ring(self) -> bool:
        self._token = secrets.token_hex(8)
        self._ring_received.clear()
        await self._ring(self._token)
        clock = asyncio.get_running_loop().time
        end = clock() + _SELF_TEST_TIMEOUT_S
        # Behind a flood it may take longer: as long as something comes, this one hears.
        longest = end + _QUERY_TIMEOUT_S
        while not self._ring_received.is_set() and (left := end - clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._ring_received.wait()
            if self._connection is not None and clock() < self._flooded_until:
                end = min(self._connection.received + _SELF_TEST_TIMEOUT_S, longest)
        if not self._ring_received.is_set():
            return False
        self.self_test_passed_at = clock()
        return True

    def _set_unreachable(self, *, pooled: bool) -> None:
        if not self.unreachable:
            self.unreachable = True
            log.warning(
                "not_listening",
                pooled=pooled,
                remedy="set database.listen_url to a direct connection; polling until then",
            )
        self.ready.set()
        self.wake.set()

    async def _end_previous(self, direct: NotificationConnection) -> None:
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
        proving = asyncio.create_task(self._repeat_self_test())
        try:
            await self._keep_locks()
        finally:
            proving.cancel()

    async def _repeat_self_test(self) -> None:
        """Ring and listen for it, again and again: a connection that seems well may hear nothing any more."""
        while True:
            await asyncio.sleep(_SELF_TEST_INTERVAL_S)
            if self.listening:
                with suppress(PgheraldError):
                    await self._receives_own_ring()

    async def _keep_locks(self) -> None:
        clock = asyncio.get_running_loop().time
        while not self._lost.is_set() and self._connection is not None:
            if not self.listening and clock() - self._self_tested_at > _SELF_TEST_RETRY_S:
                await self._self_test(self._connection, pooled=False)
            await self.acquire_leader_lock()
            await self.acquire_presence_lock()
            if clock() - self._connection.used > _LIVENESS_INTERVAL_S:
                # A connection may die without a sign. Who only listens would never know.
                await self._is_true("SELECT true")
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._lost.wait()
        if self._connection is not None and self._connection.behind:
            raise _Lost("notifications on channel pgherald come faster than they can be read; polling", for_long=True)
        raise _Lost("the LISTEN connection was lost")

    def _on_notify(self, payload: str) -> None:
        # A payload is anybody's: a daemon's own ring, by which it finds out that it hears, and ours if it is the token
        # that we have just sent. Who has captured an event sends none.
        if payload:
            if payload == self._token:
                self._ring_received.set()
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

    def _on_lost(self) -> None:
        self.listening = self.is_leader = self.has_presence_lock = False
        self._gate.lost()
        self.changed.set()
        self._lost.set()
        self.wake.set()

    async def _disconnect(self) -> None:
        direct, self._connection = self._connection, None
        if direct is not None:
            await direct.close()
        self._on_lost()

    async def _ask(self, query: str) -> bool | None:
        """What a query says whose answer is yes or no; None where there is no answer."""
        if self._connection is None:
            return None
        try:
            return bool((await self._connection.fetch(query))[0])
        except (psycopg.Error, TimeoutError) as exc:
            log.debug("lock_failed", error=summary(exc))
            return None

    async def _is_true(self, query: str) -> bool:
        """As `_asked`, and no where there is no answer: then nobody sleeps."""
        return await self._ask(query) or False

    async def acquire_leader_lock(self) -> bool:
        """Become the one that works the gate, if nobody else is."""
        if self.listening and not self.is_leader:
            self.is_leader = await self._is_true(f"SELECT pg_try_advisory_lock({_LEADER})")
            if self.is_leader:
                log.info("leading")
                self.changed.set()
                self.wake.set()
        return self.is_leader

    def set_peers(self, peers: int, *, led: bool) -> None:
        """Note how many other workers there are, and whether one of them leads. Without a leader nobody is rung."""
        if self._peer_leads and not led:
            self.wake.set()
        self.peers, self._peer_leads = peers, led

    def set_worker(self, lock: int) -> None:
        """From now on the lock of this number is to be held."""
        self._lock, self.has_presence_lock, self.presence_lock_taken = lock, False, False

    async def acquire_presence_lock(self) -> None:
        """Hold the lock by which the others see that this worker's session is alive."""
        lock = self._lock
        if self.listening and not self.has_presence_lock and not self.presence_lock_taken and lock is not None:
            locked = await self._ask(f"SELECT pg_try_advisory_lock(726355, {lock})")
            # It may have got another number meanwhile.
            if locked is None or lock != self._lock:
                return
            self.has_presence_lock, self.presence_lock_taken = locked, not locked
            if self.presence_lock_taken:
                self._taken_at = asyncio.get_running_loop().time()
            self.changed.set()

    async def close_gate(self) -> bool:
        """As `Gate.close`; only the leader may."""
        return self.is_leader and await self._gate.close()

    async def open_gate(self) -> None:
        """As `Gate.open`."""
        await self._gate.open()


class _Lost(DatabaseUnavailable):
    """It was connected, and is no more. `for_long`: to be left alone for a while."""

    def __init__(self, why: str, *, for_long: bool = False) -> None:
        super().__init__(why)
        self.for_long = for_long
