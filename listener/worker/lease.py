"""A worker's lease: its own kept, and those of dead workers ended.

A worker is dead when its session is gone, and with it its advisory lock; or when it has not renewed its lease for as
long as that lasts. Only what was seen counts: an outage that nobody could renew in, a clock that was set, a worker that
slept itself are no proof of a death. So the time is measured here, from the first look at a lease that then stays as it
is, and begins anew when the database could not be asked.
"""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from listener.errors import PgheraldError
from listener.logs import log
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.outbox.store import Outbox, Peer
from listener.smtp.breaker import Breaker

_LOOK_INTERVAL_S = 0.25
_RESCUE_INTERVAL_S = 1.0
# A worker that lives may lose its session. It says so, or has another, in no time; on a busy machine in a little more.
_SESSION_GONE_S = 0.5


@dataclass(slots=True)
class _Watched:
    """Since when a peer's lease has not been renewed, and since when its session has been gone, as seen from here."""

    seen_at: datetime
    since: float
    gone_since: float = math.inf


class WorkerLease:
    """Looks often enough for a take-over within a second. `looked` is set once it is known who is dead at the start."""

    def __init__(self, outbox: Outbox, listener: Listener, breaker: Breaker, seconds: float) -> None:
        self.first_look_done = asyncio.Event()
        # When it was last seen to, whatever came of it.
        self.last_iteration_at = -math.inf
        self._outbox = outbox
        self._listener = listener
        self._breaker = breaker
        self._lease_s = seconds
        self._renewed_at = -math.inf
        self._last_state: tuple[object, ...] = ()
        self._watched: dict[int, _Watched] = {}
        self._looked_at = -math.inf
        self._rescued_at = -math.inf

    async def keep(self) -> None:
        """Until cancelled."""
        outage = Outage("lease_renewal_failed", first=_LOOK_INTERVAL_S, longest=1.0)
        while True:
            self.last_iteration_at = asyncio.get_running_loop().time()
            try:
                await self._renew()
                await self._rescue_dead()
                outage.recovered()
            except PgheraldError as exc:
                self._renewed_at = -math.inf
                self._watched.clear()
                await self._outbox.pause(outage.failed(exc))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_INTERVAL_S):
                        await self._listener.changed.wait()

    async def _renew(self) -> None:
        """When it is due, and when something has changed that the others act on.

        By `locked` they know whether to look for this worker's lock: that it is lost must be said before they look.
        """
        listener = self._listener
        listener.changed.clear()
        if listener.presence_lock_taken:
            listener.set_worker(await self._outbox.renumber())
            await listener.acquire_presence_lock()
        state = (listener.has_presence_lock, listener.listening, listener.is_leader, listener.pid, self._breaker.reason)
        now = asyncio.get_running_loop().time()
        if state == self._last_state and now - self._renewed_at < self._lease_s / 4:
            return
        if await self._outbox.renew(
            has_presence_lock=state[0], listening=state[1], leader=state[2], pid=state[3], breaker_reason=state[4]
        ):
            self._renewed_at, self._last_state = now, state
            return
        log.warning("lease_expired", worker=self._outbox.worker)
        await self._outbox.register()
        self._listener.set_worker(self._outbox.presence_lock)
        self._renewed_at = -math.inf

    async def _rescue_dead(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > self._lease_s / 2:
            # This worker itself was stopped, or had no answer.
            self._watched.clear()
        self._looked_at = now
        peers = await self._outbox.peers()
        self._listener.set_peers(len(peers), led=any(peer.leader and not peer.gone for peer in peers))
        gone, silent = self._judge(peers, now)
        if not gone and not silent and now - self._rescued_at < _RESCUE_INTERVAL_S:
            return
        rescue = await self._outbox.rescue(gone + silent)
        if silent:
            # The server may believe in a cut or stopped worker's session for hours, and in its locks.
            await self._outbox.end_sessions(silent)
        self._rescued_at = now
        if rescue.names or rescue.freed or rescue.doubted:
            log.warning("workers_rescued", workers=rescue.names, released=rescue.freed, in_doubt=rescue.doubted)
        if rescue.freed or rescue.due:
            self._listener.wake.set()
        if not any(peer.gone for peer in peers if peer not in gone):
            self.first_look_done.set()

    def _judge(self, peers: list[Peer], now: float) -> tuple[list[Peer], list[Peer]]:
        """Who has had no session for a while, and who has been silent for as long as its lease lasts."""
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
