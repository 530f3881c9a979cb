"""Keep one LISTEN connection to the primary, and with it the doorbell, the gate and the presence lock."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import psycopg

from listener import metrics
from listener.db.connection import KEEPALIVES, connect_as, refuse_standby
from listener.db.errors import summary, translate_errors
from listener.db.pool import limited
from listener.db.pooler import is_pooled, is_shared
from listener.errors import PgheraldError
from listener.logs import log
from listener.notify.connection import Disconnected, ListenConnection, NotificationConnection
from listener.notify.doorbell import Doorbell
from listener.notify.gate import Gate
from listener.notify.peers import Peers
from listener.notify.presence import PresenceLock
from listener.notify.self_test import SelfTest
from listener.outage import Outage

SELF_TEST_INTERVAL_S = 5.0
# A test that failed is repeated less often: behind a pooler it fails every time.
_SELF_TEST_RETRY_S = 10.0
# Short against the lease, within which a lost lock must be noticed.
_TICK_S = 0.25
# A connection may die without a sign. A quarter of the shortest usual lease.
_LIVENESS_INTERVAL_S = 2.5
_QUERY_TIMEOUT_S = 5.0
# A connection that lasted this long was a good one. Its loss is a new outage, not more of the last one.
_STABLE_AFTER_S = 5.0


class Listener:
    """Hold the LISTEN session of one worker.

    `ready` is set once it is known whether notifications arrive. `changed` is set with every change that the other
    workers act on: listening, leader, presence lock. `reconnects` counts connections after the first. `state` is
    "unreachable" while the session is up and nothing arrives. `notify` sends a payload by another connection. With a
    longer `poll`, in seconds, it tests less often.
    """

    def __init__(self, url: str, notify: Callable[[str], Awaitable[None]], poll: float = 0.0) -> None:
        self.doorbell = Doorbell()
        self.peers = Peers(notify, self.doorbell)
        self.gate = Gate(self._is_true)
        self.presence = PresenceLock(self._ask)
        self.self_test = SelfTest(notify)
        self.ready = asyncio.Event()
        self.changed = asyncio.Event()
        self.state: Literal["down", "listening", "unreachable"] = "down"
        self.reconnects = -1
        self._url = url
        self._poll_s = poll
        self._connection: NotificationConnection | None = None
        self._session: tuple[int, Any] | None = None

    @property
    def listening(self) -> bool:
        """Return whether notifications arrive."""
        return self.state == "listening"

    @property
    def pid(self) -> int | None:
        """Process ID of this session's backend. The session says it itself, because a pooler makes up another one."""
        return self._session[0] if self.listening and self._session is not None else None

    @property
    def is_rung(self) -> bool:
        """Return whether a commit wakes this worker at once: the leader works the gate, and notifications arrive in time."""
        if not self.listening or self.self_test.is_flooded:
            return False
        return self.gate.closed if self.gate.is_leader else self.peers.have_leader

    @property
    def suspects_stranger(self) -> bool:
        """Return whether a session that is no worker's may hold one of our locks."""
        if self.presence.was_just_taken:
            return True
        return self.gate.is_refused if self.gate.is_leader else self.listening and not self.peers.have_leader

    async def keep(self) -> None:
        """Connect, and connect again after each loss, until cancelled."""
        connecting = Outage("listen_connect_failed", first=0.1, longest=1.0)
        losing = Outage("listen_disconnected", first=0.1, longest=1.0)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    with translate_errors():
                        if await self._connect():
                            await self._tend()
                    pause = _SELF_TEST_RETRY_S
                except Disconnected as exc:
                    if clock() - began > _STABLE_AFTER_S:
                        connecting.recovered()
                        losing.recovered()
                    pause = _SELF_TEST_RETRY_S if exc.is_flooded else 0.0
                    pause = max(pause, losing.failed(exc))
                except PgheraldError as exc:
                    pause = connecting.failed(exc)
                await self._disconnect()
                # The pause has jitter: the other daemons reconnect at the same moment.
                await asyncio.sleep(pause)
        finally:
            await self._disconnect()

    async def acquire_presence_lock(self) -> None:
        """Hold the lock by which the other workers see that this session is alive."""
        if self.listening and await self.presence.acquire():
            self.changed.set()

    async def _connect(self) -> bool:
        """Return False behind a pooler that shares its sessions: nothing may be set or locked there."""
        conn = await connect_as(ListenConnection, self._url)
        try:
            with limited(conn, _QUERY_TIMEOUT_S):
                await refuse_standby(conn)
                pooled = await is_pooled(conn)
                if pooled and await is_shared(conn, self._url):
                    self._set_unreachable(pooled=True)
                    await conn.close()
                    return False
                # LISTEN comes first: an event that commits after it either is drained or rings.
                await conn.execute("LISTEN pgherald")
        except BaseException:
            await conn.close()
            raise
        self._connection = NotificationConnection(conn, self._on_notify, self._on_lost)
        self.reconnects += 1
        if self.reconnects:
            metrics.reconnected()
        await self._test(self._connection, pooled=pooled)
        return True

    async def _test(self, connection: NotificationConnection, *, pooled: bool) -> None:
        """Find out whether notifications arrive, and take the locks if they do."""
        try:
            passed = await self.self_test.run(lambda: connection.received)
        except PgheraldError:
            # The ring goes through the outbox pool. Its other users log that the database is unavailable.
            return
        if not passed:
            self._set_unreachable(pooled=pooled)
            return
        # Locks and settings of the session only now: through a pooler they could stay behind in another client's session.
        await connection.execute(KEEPALIVES)
        if self._session is not None:
            # The server may not know yet that our earlier session is gone, and keep its locks.
            await connection.end_session(self._session)
        self._session = await connection.session()
        log.info("listening", pid=connection.pid)
        self.state = "listening"
        await self._acquire_leader_lock()
        await self.acquire_presence_lock()
        self.changed.set()
        self.ready.set()
        self.doorbell.ring("connected")

    def _set_unreachable(self, *, pooled: bool) -> None:
        if self.state != "unreachable":
            self.state = "unreachable"
            log.warning(
                "not_listening",
                pooled=pooled,
                remedy="set database.listen_url to a direct connection; the daemon polls until then",
            )
        self.ready.set()
        self.doorbell.ring("connected")

    async def _tend(self) -> None:
        """Keep the locks until the connection is lost. Raises `Disconnected` then."""
        # The self-test is a task of its own: its ring takes another way, which may be slow while the locks need tending.
        testing = asyncio.create_task(self._repeat_self_test(), name="self-test")
        try:
            await self._keep_locks()
        finally:
            testing.cancel()

    async def _repeat_self_test(self) -> None:
        """Test again and again: a connection that seems well may have stopped to receive anything."""
        while True:
            await asyncio.sleep(max(SELF_TEST_INTERVAL_S, self._poll_s))
            if self.listening and (connection := self._connection) is not None:
                with suppress(PgheraldError):
                    await self.self_test.run(lambda: connection.received)

    async def _keep_locks(self) -> None:
        clock = asyncio.get_running_loop().time
        while (connection := self._connection) is not None and not connection.is_lost:
            if not self.listening and clock() - self.self_test.started_at > _SELF_TEST_RETRY_S:
                await self._test(connection, pooled=False)
            await self._acquire_leader_lock()
            await self.acquire_presence_lock()
            if clock() - connection.used > max(_LIVENESS_INTERVAL_S, 0.0 if self.peers.count else self._poll_s / 2):
                await self._is_true("SELECT true")
            await connection.wait_until_lost(_TICK_S)
        flooded = connection is not None and connection.is_flooded
        why = "notifications on channel pgherald come faster than they can be read; polling"
        raise Disconnected(why if flooded else "the LISTEN connection was lost", is_flooded=flooded)

    async def _acquire_leader_lock(self) -> None:
        """Become the worker that works the gate, if no other one is."""
        if self.listening and await self.gate.lead():
            log.info("leading")
            self.changed.set()
            self.doorbell.ring("leader")

    def _on_notify(self, payload: str) -> None:
        # Triggers send an empty payload. Anything else is a self-test, ours if it equals the last token we sent.
        if not payload:
            self.doorbell.ring("notify")
        elif self.self_test.receive(payload):
            # A worker that sleeps until it is rung must begin to poll.
            self.doorbell.ring("flood")

    def _on_lost(self) -> None:
        if self.listening:
            self.state = "down"
        self.gate.lost()
        self.presence.lost()
        self.changed.set()
        self.doorbell.ring("lost")

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        self._on_lost()

    async def _ask(self, query: str) -> bool | None:
        """Run a boolean query. Return None where no answer comes."""
        if self._connection is None:
            return None
        try:
            return bool((await self._connection.fetch(query))[0])
        except (psycopg.Error, TimeoutError) as exc:
            log.debug("lock_failed", error=summary(exc))
            return None

    async def _is_true(self, query: str) -> bool:
        """Run a boolean query. Return False where no answer comes, which keeps the worker awake."""
        return await self._ask(query) or False
