"""Claim events, each rule its share of them."""

import asyncio
import math
from collections.abc import Mapping
from functools import partial

from listener import metrics
from listener.errors import PgheraldError
from listener.logs import log
from listener.outbox.event import Event
from listener.outbox.store import Outbox
from listener.outbox.turns import Turns
from listener.worker.decider import Decider
from listener.worker.in_flight import InFlight
from listener.worker.scan_pace import ScanPace

# Lost claims and a large inbox are rare, and looking for them is one statement each.
_SWEEP_INTERVAL_S = 10.0


class Claimer:
    """Turn available events into claimed ones. The `decider` takes them from here.

    `claimed_at`: when a claim was last answered, on the loop's clock. `pace`: how far back a claim reads.
    """

    def __init__(self, outbox: Outbox, in_flight: InFlight, decider: Decider) -> None:
        self.claimed_at = -math.inf
        self.pace = ScanPace()
        self.decider = decider
        self._outbox = outbox
        self._in_flight = in_flight
        self._turns = Turns()
        self._claim_unacknowledged = False
        self._swept_at = self._shrunk_at = 0.0

    async def claim(self, limit: int, shares: Mapping[str, int], *, thorough: bool = True) -> list[Event]:
        """Claim up to `limit` events. `shares` has the rules and their shares. `thorough`: see `ScanPace.window`.

        Raises:
            DatabaseUnavailable, SchemaError: the claim may have been made all the same. The next call releases it.
        """
        if not limit:
            return []
        now = asyncio.get_running_loop().time()
        if self._claim_unacknowledged or now - self._swept_at > _SWEEP_INTERVAL_S:
            # A claim whose answer was lost with the connection may have been made, or may yet be. While this worker
            # lives, no other worker touches those events, and this one does not know of them.
            if lost := await self._outbox.release_lost_claims(self._in_flight.fences):
                log.warning("lost_claims_released", events=lost)
            self._claim_unacknowledged, self._swept_at = False, now
            now = asyncio.get_running_loop().time()
        holds_lease = partial(self._outbox.is_leased, self._outbox.worker)
        window = self.pace.window(now, shares.keys(), thorough=thorough)
        turns = self._turns.next(shares)
        try:
            events = await self._outbox.claim(limit, turns, window)
        except PgheraldError:
            self._claim_unacknowledged = True
            raise
        self.claimed_at = asyncio.get_running_loop().time()
        found_end = self._turns.took(turns, limit, [event.rule for event in events]) and not self._outbox.inbox.has_more
        if window is None:
            self.pace.read_all(now, self.claimed_at, shares.keys(), found_end=found_end)
        if not events and self.claimed_at - self._shrunk_at > _SWEEP_INTERVAL_S:
            # Only a claim that found nothing has left the inbox empty. One that a ring woke has a change to find.
            self._shrunk_at = self.claimed_at
            await self._outbox.inbox.shrink()
        metrics.claimed(len(events))
        self._in_flight.add(events, holds_lease, now)
        return events

    async def take_over(self) -> bool:
        """Take changes over without a claim, if they may hide another rule's. Return whether it was done."""
        if not self._outbox.inbox.has_hidden_rules:
            return False
        await self._outbox.inbox.take_over()
        return True

    async def pause(self, seconds: float) -> None:
        """Wait before the next claim, for as long as the database stays unavailable but no longer than `seconds`."""
        await self._outbox.pause(seconds)
