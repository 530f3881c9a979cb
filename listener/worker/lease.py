"""Keep this worker's lease, and rescue the events of dead workers.

A worker is dead when its session is gone, and its advisory lock with it. It is also dead when it has not renewed its
lease for the time that the lease lasts.

Expiry is judged by local observation only. A database outage, a clock change or our own suspension then never looks like
another worker's death. The time counts from the first look at a lease that does not change from then on. It starts again
whenever the database could not be read.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from listener.errors import PgheraldError
from listener.logs import log
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.retry import wait
from listener.smtp.breaker import Breaker
from listener.worker.registry import Peer, WorkerRegistry
from listener.worker.suspensions import Suspension

# Four looks in a second, so that a dead worker's events are rescued within a second.
_LOOK_INTERVAL_S = 0.25
# A worker without peers looks so often within the interval of its poll.
_LOOKS_PER_POLL = 20
# A rescue also resends events in doubt and takes over from workers that have left. Once a second is soon enough for them.
_RESCUE_INTERVAL_S = 1.0
# A live worker may lose its session. It then says so or has another one at once; on a busy machine a little later.
_SESSION_GONE_S = 0.5


@dataclass(slots=True)
class _Watched:
    """A peer as this worker has observed it.

    Attributes:
        seen_at: When the peer last renewed its lease, by the server's clock.
        since: When this worker first saw that value, on the loop's clock.
        gone_since: When this worker first saw the peer's session gone, on the loop's clock. Infinite while it is there.
    """

    seen_at: datetime
    since: float
    gone_since: float = math.inf


class WorkerLease:
    """Renew this worker's lease and look after the other workers.

    `poll`, in seconds: with a longer one, a worker without peers looks less often.

    Attributes:
        first_look_done: Set once the workers that were dead at the start have been rescued.
        last_iteration_at: When the loop last ran, successfully or not, on the loop's clock.
    """

    def __init__(self, registry: WorkerRegistry, listener: Listener, breaker: Breaker, poll: float = 0.0) -> None:
        self.first_look_done = asyncio.Event()
        self.last_iteration_at = -math.inf
        self._registry = registry
        self._listener = listener
        self._breaker = breaker
        self._lease_s = registry.registration.lease_s
        self._idle_look_s = max(_LOOK_INTERVAL_S, min(poll / _LOOKS_PER_POLL, self._lease_s / 4))
        self._renewed_at = -math.inf
        self._last_state: tuple[object, ...] = ()
        self._watched: dict[int, _Watched] = {}
        self._looked_at = -math.inf
        self._rescued_at = -math.inf

    async def keep(self, suspended: Callable[[], Mapping[str, Suspension]]) -> None:
        """Renew and look, again and again, until cancelled. `suspended` returns the rules that are suspended now."""
        outage = Outage("lease_renewal_failed", first=_LOOK_INTERVAL_S, longest=1.0)
        while True:
            self.last_iteration_at = asyncio.get_running_loop().time()
            try:
                await self._renew(suspended())
                await self._rescue_dead()
                if self._breaker.reason is not None and await self._registry.take_retry_request():
                    log.info("retry_requested", reason=self._breaker.reason)
                    self._breaker.retry_now()
                outage.recovered()
            except PgheraldError as exc:
                self._renewed_at = -math.inf
                self._watched.clear()
                await self._registry.pause(outage.failed(exc))
            else:
                is_idle = not self._watched and self._breaker.reason is None
                await wait(self._listener.changed, self._idle_look_s if is_idle else _LOOK_INTERVAL_S)

    async def _renew(self, suspended: Mapping[str, Suspension]) -> None:
        """Renew the lease if it is due, or if something has changed that the other workers act on.

        They look for this worker's presence lock only if its row says that it holds one. So the loss of the lock must be
        written before they look.
        """
        listener = self._listener
        listener.changed.clear()
        if listener.presence.taken:
            listener.presence.assign(await self._registry.renumber())
            await listener.acquire_presence_lock()
        state = (
            listener.presence.held,
            listener.listening,
            listener.gate.is_leader,
            listener.pid,
            self._breaker.reason,
            self._registry.holds_doubts_of,
            suspended,
        )
        now = asyncio.get_running_loop().time()
        if state == self._last_state and now - self._renewed_at < self._lease_s / 4:
            return
        if await self._registry.renew(
            has_presence_lock=state[0],
            listening=state[1],
            leader=state[2],
            pid=state[3],
            breaker_reason=state[4],
            suspended=suspended,
        ):
            self._renewed_at, self._last_state = now, state
            return
        log.warning("lease_expired", worker=self._registry.registration.worker)
        await self._registry.register()
        self._listener.presence.assign(self._registry.registration.presence_lock)
        self._renewed_at = -math.inf

    async def _rescue_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > self._lease_s / 2:
            # This worker itself was suspended, or had no answer from the database.
            self._watched.clear()
        self._looked_at = now
        peers = await self._registry.peers()
        self._listener.peers.update(len(peers), have_leader=any(peer.leader and not peer.gone for peer in peers))
        gone, silent = self._judge(peers, now)
        if not gone and not silent and now - self._rescued_at < _RESCUE_INTERVAL_S:
            return
        rescue = await self._registry.rescue(gone + silent)
        if silent:
            # The server may keep the session of a worker that was cut off, and its locks, for hours.
            await self._registry.end_sessions(silent)
        self._rescued_at = now
        if rescue.names or rescue.freed or rescue.doubted:
            log.warning("workers_rescued", workers=rescue.names, released=rescue.freed, in_doubt=rescue.doubted)
        # A worker that died may have held rows of the inbox that this one skipped.
        if rescue.names or rescue.freed or rescue.due:
            self._listener.doorbell.ring("rescued")
        if not any(peer.gone for peer in peers if peer not in gone):
            self.first_look_done.set()

    def _judge(self, peers: list[Peer], now: float) -> tuple[list[Peer], list[Peer]]:
        """Return the peers whose session is gone, and those that have been silent for the length of their lease."""
        before, self._watched = self._watched, {}
        gone, silent = [], []
        for peer in peers:
            known = before.get(peer.id)
            if known is None or known.seen_at != peer.seen_at:
                known = _Watched(peer.seen_at, now)
            known.gone_since = min(known.gone_since, now) if peer.gone else math.inf
            self._watched[peer.id] = known
            if now - known.gone_since >= _SESSION_GONE_S:
                gone.append(peer)
            elif now - known.since > peer.lease:
                silent.append(peer)
        return gone, silent
