"""The loop: wake, drain, close the gate, drain again, sleep."""

import asyncio
import math
from collections import defaultdict

from listener import metrics
from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken
from listener.logs import log
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import RateLimiter, Slots
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.worker.delivery import Delivery, queued_bytes
from listener.worker.lookup import ToSend
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.sender import Senders

_RING_PEERS_INTERVAL_S = 0.1
_SENDERS_START_S = 0.005
_RING_WAITING_INTERVAL_S = 0.5
_SWEEP_INTERVAL_S = 10.0


class Worker:
    """One daemon's work on the outbox.

    `delivery` may be put anew at any time. `turned`: when the loop last went round, whatever came of it, on its own clock.
    """

    def __init__(
        self,
        outbox: Outbox,
        lookups: Pool,
        listener: Listener,
        delivery: Delivery,
        senders: Senders,
        breaker: Breaker,
        rate_limiter: RateLimiter,
        *,
        poll: float,
    ) -> None:
        self.delivery = delivery
        self.senders = senders
        self.last_iteration_at = -math.inf
        self._outbox = outbox
        self._lookups = lookups
        self._listener = listener
        self._breaker = breaker
        self._rate_limiter = rate_limiter
        self._poll = poll
        self._stopped = asyncio.Event()
        self._claimed_at = -math.inf
        self._claim_unacknowledged = False
        self._swept_at = 0.0
        self._rang_at = 0.0
        # How many rows as large as the last fit into a batch.
        self._rows_per_batch = math.inf
        self._outage = Outage("database_unavailable", first=0.1, longest=1.0)

    @property
    def last_progress_at(self) -> float:
        """When a claim was last answered or an event settled, on the loop's clock."""
        return max(self._claimed_at, self.senders.settled_at)

    @property
    def _stopping(self) -> bool:
        return self._stopped.is_set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopping:
            try:
                await self._run_until_error()
            except PgheraldError as exc:
                self._tick()
                await self._outbox.pause(self._outage.failed(exc))

    def _tick(self) -> None:
        self.last_iteration_at = asyncio.get_running_loop().time()

    async def _run_until_error(self) -> None:
        doze = 0.001
        while not self._stopping:
            # Before the drain, so that a ring during it is not lost.
            self._listener.wake.clear()
            self._tick()
            claimed = await self._drain()
            self._outage.recovered()
            if self._breaker.is_open or self._stopping:
                await self._breaker_or_stop()
                continue
            if self._listener.is_leader:
                # With hands full there is no sleeping: behind a closed gate every commit would have to ring.
                await self._wait_for_capacity()
                if claimed:
                    # The gate can wait until the mail has gone. From then on, who commits need not ring.
                    await self._let_senders_start()
                    await self._listener.open_gate()
                    continue
                if not await self._listener.close_gate():
                    if self._listener.gate_held_by_stranger:
                        # A stranger keeps it closed: whoever commits an event rings, unless the stranger lets go.
                        await self._sleep()
                        continue
                    # Somebody who did not ring has not committed yet.
                    await asyncio.sleep(doze)
                    doze = min(1.5 * doze, 0.02)
                    continue
                doze = 0.001
                if (found := await self._drain_behind_gate()) or self._breaker.is_open:
                    await self._listener.open_gate()
                    if found:
                        metrics.woken("gate")
                    continue
            await self._sleep()

    async def _drain_behind_gate(self) -> int:
        """With a new snapshot: what became visible between the last drain and the lock rang nobody."""
        return await self._drain()

    async def _let_senders_start(self) -> None:
        """Let what was claimed get to the server first, a few milliseconds: all else takes the processor from it."""
        clock = asyncio.get_running_loop().time
        end = clock() + _SENDERS_START_S
        while self.senders.in_flight and not self._stopping and (left := end - clock()) > 0:
            await self.senders.wait_for_slot(left)

    async def _sleep(self) -> None:
        limit = self._poll if self._listener.is_rung else min(self._poll, 1.0)
        try:
            async with asyncio.timeout(limit):
                await self._listener.wake.wait()
        except TimeoutError:
            metrics.woken("poll")
            log.debug("poll")

    async def _breaker_or_stop(self) -> None:
        await self._listener.open_gate()
        waits = [asyncio.create_task(self._breaker.wait()), asyncio.create_task(self._stopped.wait())]
        try:
            while not any(task.done() for task in waits):
                self._tick()
                # A leader that is awake keeps the application from ringing, and this one delivers nothing itself.
                await self._ring_peers()
                await asyncio.wait(waits, timeout=_RING_WAITING_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def drain_all(self) -> bool:
        """Deliver what is due, to the last. False when the mail server was not there for it."""
        while True:
            claimed = await self._drain()
            await self.senders.wait_until_empty()
            if self._breaker.is_open or not claimed:
                return self.senders.server_reached and not self._breaker.is_open

    async def _drain(self) -> int:
        """Claim until nothing is left to claim; gives how many events that were."""
        total = 0
        while not self._stopping and not self._breaker.is_open:
            slots = await self._reserve_slots(await self._wait_for_capacity())
            # To the end of these events, also when it is put anew meanwhile: the next may not know their rule.
            delivery = self.delivery
            rules = delivery.active_rules
            events = await self._claim(slots.number, rules) if rules and slots.number else []
            total += len(events)
            await self._rate_limiter.refund(slots, await self._decide_and_queue(delivery, events, slots))
            if len(events) < slots.number or not slots.number:
                break
            await self._ring_peers()
        return total

    async def _claim(self, limit: int, rules: list[str]) -> list[Event]:
        now = asyncio.get_running_loop().time()
        if self._claim_unacknowledged or now - self._swept_at > _SWEEP_INTERVAL_S:
            # A claim whose answer was lost with the connection may have been made, or be made yet: nobody else will
            # touch those events while this worker lives, and this one does not know of them.
            if strays := await self._outbox.release_lost_claims(self.senders.in_flight):
                log.warning("lost_claims_released", events=strays)
            self._claim_unacknowledged, self._swept_at = False, now
        worker = self._outbox.worker
        try:
            events = await self._outbox.claim(limit, rules)
        except PgheraldError:
            self._claim_unacknowledged = True
            raise
        self._claimed_at = asyncio.get_running_loop().time()
        metrics.claimed(len(events))
        self.senders.track(events, worker, now)
        return events

    async def _wait_for_capacity(self) -> int:
        """Wait until there is room, and give how many events may be claimed."""
        reach = self.senders.capacity
        # What waits to be sent is bounded by its size, too: a batch of rows may take as much again.
        while (
            len(self.senders.in_flight) > (0 if self._breaker.is_probing else reach // 2)
            or self.senders.queued_bytes > MAX_BATCH_BYTES // 2
        ):
            if self._stopping or self._breaker.is_open:
                return 0
            self._tick()
            await self._listener.open_gate()
            await self.senders.wait_for_slot(_RING_PEERS_INTERVAL_S)
            # With its hands full it is no use to those events that come now.
            await self._ring_peers()
        return 1 if self._breaker.is_probing else int(min(reach - len(self.senders.in_flight), self._rows_per_batch))

    async def _reserve_slots(self, limit: int) -> Slots:
        """Wait until there is a sending slot, and give those that come now: no more than these are claimed."""
        while limit and not (self._stopping or self._breaker.is_open):
            slots = await self._rate_limiter.reserve(limit)
            if slots.number:
                return slots
            self._tick()
            await self._listener.open_gate()
            await self.senders.wait_for_slot(min(slots.wait, 1.0))
        return Slots(0)

    async def _ring_peers(self) -> None:
        """Tell the other daemons of a backlog: while this one is awake, the application rings nobody."""
        now = asyncio.get_running_loop().time()
        if self._listener.peers and now - self._rang_at > _RING_PEERS_INTERVAL_S:
            self._rang_at = now
            await self._outbox.ring("")

    async def _decide_and_queue(self, delivery: Delivery, events: list[Event], slots: Slots) -> int:
        """Decide about claimed events; queue those that are to be mailed, settle the others. How many were queued."""
        slot = asyncio.get_running_loop().time() + slots.wait
        queued = 0
        by_rule: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_rule[event.rule].append(event)
        left = MAX_BATCH_BYTES
        away: DatabaseUnavailable | None = None
        for rule, group in by_rule.items():
            try:
                decided = await delivery.triage(rule, group, self._lookups, left)
                left -= queued_bytes(decided)
            except RuleBroken as exc:
                delivery.suspend(rule, exc)
                decided = [Settlement(event, "available") for event in group]
            except DatabaseUnavailable as exc:
                away = exc
                decided = [Settlement(event, "available") for event in group]
            looked_up = asyncio.get_running_loop().time()
            for decision in decided:
                if isinstance(decision, ToSend):
                    at = slot + queued * slots.interval if slots.interval else None
                    self.senders.queue(delivery, decision, looked_up, at)
                    queued += 1
                else:
                    self.senders.settle(decision)
        if queued:
            self._rows_per_batch = max(1, MAX_BATCH_BYTES * queued // (MAX_BATCH_BYTES - left))
        if away is not None:
            raise away
        return queued

    async def stop(self, grace: float) -> None:
        """Claim no more, let what is past the final dot come to its end, give the rest back. `grace` in seconds."""
        self._stopped.set()
        self._listener.wake.set()
        await self.senders.stop(grace)
