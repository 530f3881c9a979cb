"""Claim events, look them up, and queue or settle each."""

import asyncio
import math
from collections import defaultdict
from dataclasses import replace
from functools import partial

from listener import metrics
from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken
from listener.logs import log
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import Slots
from listener.outbox.store import Outbox
from listener.worker.decision import ToSend
from listener.worker.delivery import queued_bytes
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.runtime import Runtime
from listener.worker.scan_pace import ScanPace
from listener.worker.sender import Senders
from listener.worker.spreading import spread

# Lost claims are rare, and looking for them is one statement.
_SWEEP_INTERVAL_S = 10.0


class Claimer:
    """Turn available events into queued ones.

    `claimed_at`: when a claim was last answered, on the loop's clock. `rows_per_batch`: how many rows as large as the
    last ones fit into the memory that a batch may take. `pace`: how far back a claim reads.
    """

    def __init__(self, outbox: Outbox, lookups: Pool, senders: Senders) -> None:
        self.claimed_at = -math.inf
        self.rows_per_batch = math.inf
        self.pace = ScanPace()
        self._outbox = outbox
        self._lookups = lookups
        self._senders = senders
        self._claim_unacknowledged = False
        self._swept_at = 0.0

    async def claim(self, limit: int, rules: list[str], *, thorough: bool = True) -> list[Event]:
        """Claim up to `limit` events of these rules. `thorough`: see `ScanPace.window`.

        Raises:
            DatabaseUnavailable, SchemaError: the claim may have been made all the same. The next call releases it.
        """
        now = asyncio.get_running_loop().time()
        if self._claim_unacknowledged or now - self._swept_at > _SWEEP_INTERVAL_S:
            # A claim whose answer was lost with the connection may have been made, or may yet be. While this worker
            # lives, no other worker touches those events, and this one does not know of them.
            if lost := await self._outbox.release_lost_claims(self._senders.in_flight.fences):
                log.warning("lost_claims_released", events=lost)
            self._claim_unacknowledged, self._swept_at = False, now
            now = asyncio.get_running_loop().time()
        holds_lease = partial(self._outbox.is_leased, self._outbox.worker)
        window = self.pace.window(now, rules, thorough=thorough)
        try:
            events = await self._outbox.claim(limit, rules, window)
        except PgheraldError:
            self._claim_unacknowledged = True
            raise
        self.claimed_at = asyncio.get_running_loop().time()
        if window is None:
            self.pace.read_all(now, self.claimed_at, rules, found_end=len(events) < limit)
        metrics.claimed(len(events))
        self._senders.in_flight.add(events, holds_lease, now)
        return events

    async def decide_and_queue(self, runtime: Runtime, events: list[Event], slots: Slots) -> int:
        """Look up claimed events. Queue those that are to be sent, settle the others. Return how many were queued.

        Raises:
            DatabaseUnavailable: a lookup could not be made. Its events are released.
        """
        first_slot = asyncio.get_running_loop().time() + slots.wait
        queued = 0
        decided: list[ToSend | Settlement]
        by_rule: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_rule[event.rule].append(replace(event, message_id=runtime.delivery.message_id(event)))
        left = MAX_BATCH_BYTES
        unavailable: DatabaseUnavailable | None = None
        for rule, group in by_rule.items():
            looked_up_at = -math.inf
            try:
                found = await runtime.delivery.triage(rule, group, self._lookups, left)
                looked_up_at = asyncio.get_running_loop().time()
                decided = await spread(self._outbox, found)
                left -= queued_bytes(decided)
            except RuleBroken as exc:
                runtime.delivery.suspensions.suspend(rule, exc)
                decided = [Settlement(event, "available") for event in group]
            except DatabaseUnavailable as exc:
                unavailable = exc
                decided = [Settlement(event, "available") for event in group]
            for decision in decided:
                if isinstance(decision, ToSend):
                    send_at = first_slot + queued * slots.interval if slots.interval else None
                    self._senders.queue(runtime, decision, looked_up_at, send_at)
                    queued += 1
                else:
                    self._senders.settle(decision)
        if queued:
            self.rows_per_batch = max(1, MAX_BATCH_BYTES * queued // (MAX_BATCH_BYTES - left))
        if unavailable is not None:
            raise unavailable
        return queued

    async def pause(self, seconds: float) -> None:
        """Wait before the next claim, for as long as the database stays unavailable but no longer than `seconds`."""
        await self._outbox.pause(seconds)
