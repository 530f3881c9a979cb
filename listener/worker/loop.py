"""The worker's loop: wait for the doorbell, drain the outbox, close the gate, drain again, sleep."""

import asyncio
import math
from collections.abc import Mapping

from listener import metrics
from listener.errors import PgheraldError
from listener.logs import log
from listener.notify.listener import Listener
from listener.outage import Outage
from listener.outbox.rate_limit import RateLimiter, Slots
from listener.smtp.breaker import Breaker
from listener.worker.claimer import Claimer
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.runtime import Runtime
from listener.worker.sender import Senders
from listener.worker.suspensions import Suspension

# While the breaker is open and this worker is the leader, the others depend on its rings.
_RING_WAITING_INTERVAL_S = 0.5
# While a worker waits for room it must still look at the gate, the breaker and its peers.
_CAPACITY_CHECK_S = 0.1
# The first pause while a transaction is open that did not ring. It grows to the longest one.
_OPEN_TRANSACTION_S = 0.001
_MAX_OPEN_TRANSACTION_S = 0.02
# Without a ring for each commit the worker polls at least this often.
_UNRUNG_POLL_S = 1.0


class Worker:
    """Deliver the outbox of one database until stopped.

    `runtime` may be replaced at any time (SIGHUP). `last_iteration_at` is the loop time of the last iteration,
    successful or not. `poll` is in seconds.
    """

    def __init__(
        self,
        claimer: Claimer,
        senders: Senders,
        listener: Listener,
        breaker: Breaker,
        rate_limiter: RateLimiter,
        *,
        runtime: Runtime,
        poll: float,
    ) -> None:
        self.runtime = runtime
        self.last_iteration_at = -math.inf
        self._claimer = claimer
        self._decider = claimer.decider
        self._senders = senders
        self._listener = listener
        self._breaker = breaker
        self._rate_limiter = rate_limiter
        self._poll_s = poll
        self._stopped = asyncio.Event()
        self._outage = Outage("database_unavailable", first=0.1, longest=1.0)

    @property
    def last_progress_at(self) -> float:
        """When a claim was last answered or an event settled, on the loop's clock."""
        return max(self._claimer.claimed_at, self._senders.in_flight.settled_at)

    @property
    def suspended(self) -> Mapping[str, Suspension]:
        """The suspended rules of the present configuration. The mapping never changes."""
        return self.runtime.delivery.suspensions.current

    @property
    def busy(self) -> Mapping[str, float]:
        """Since when the lookup of each busy rule runs, on the loop's clock."""
        return self._decider.busy

    @property
    def in_flight_count(self) -> int:
        """How many events are claimed and not yet settled."""
        return len(self._senders.in_flight)

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
                await self._claimer.pause(self._outage.failed(exc))

    async def drain_all(self) -> bool:
        """Deliver everything that is due. Return False if the mail server could not be reached.

        Raises:
            DatabaseUnavailable: the database, or one lookup, did not answer in time.
        """
        while True:
            claimed = await self._drain(thorough=True)
            await self._senders.in_flight.wait_until_empty()
            self._decider.raise_failure(timeout=True)
            if self._breaker.is_open or not claimed:
                return self._senders.server_reached and not self._breaker.is_open

    async def stop(self, grace: float) -> None:
        """Claim no more, finish what is past the final dot, and release the rest. `grace` is in seconds."""
        self._stopped.set()
        self._listener.doorbell.ring("stop")
        self._decider.stop()
        await self._senders.stop(grace)

    def _tick(self) -> None:
        self.last_iteration_at = asyncio.get_running_loop().time()

    async def _run_until_error(self) -> None:
        gate, doorbell, pace = self._listener.gate, self._listener.doorbell, self._claimer.pace
        pause = _OPEN_TRANSACTION_S
        while not self._stopping:
            pace.is_urgent |= doorbell.is_rung or not self._listener.is_rung
            # The bell is cleared before the drain, so that a ring during the drain is not lost.
            doorbell.clear()
            self._tick()
            claimed = await self._drain(thorough=False)
            self._outage.recovered()
            if self._breaker.is_open or self._stopping:
                await self._wait_for_breaker_or_stop()
                continue
            if gate.is_leader:
                # At capacity we do not close the gate: every commit would then send a NOTIFY that nobody can act on.
                await self._wait_for_capacity()
            if claimed:
                if gate.is_leader:
                    # The gate stays closed until these events are on their way. Once it is open, commits need not ring.
                    await self._senders.in_flight.let_senders_start()
                await self._open_gate()
                # Another worker's claim at the same moment may have left an event to this one.
                continue
            if gate.is_leader and not await gate.close() and not gate.held_by_stranger:
                # A transaction that skipped NOTIFY is still open. Retry shortly.
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, _MAX_OPEN_TRANSACTION_S)
                continue
            # If a stranger keeps the gate closed, every commit rings.
            pause = _OPEN_TRANSACTION_S
            if gate.closed or pace.is_expensive:
                began = asyncio.get_running_loop().time()
                # A row that became visible between the last drain and the lock did not ring. A new snapshot shows it.
                if (found := await self._drain(thorough=True)) or self._breaker.is_open:
                    if found and gate.closed:
                        metrics.woken("gate")
                    await self._open_gate()
                    continue
                pace.is_urgent &= pace.read_all_at < began
            await self._sleep()

    async def _open_gate(self) -> None:
        """Open the gate. From now on an event can become available without a ring."""
        self._claimer.pace.is_urgent = True
        await self._listener.gate.open()

    async def _sleep(self) -> None:
        limit = self._poll_s if self._listener.is_rung else min(self._poll_s, _UNRUNG_POLL_S)
        pace = self._claimer.pace
        if pace.is_urgent and pace.is_expensive:
            # The last drain read only recent events. The next one must not wait for a ring.
            limit = min(limit, pace.wait(asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(limit):
                await self._listener.doorbell.wait()
        except TimeoutError:
            metrics.woken("poll")
            log.debug("poll")

    async def _wait_for_breaker_or_stop(self) -> None:
        await self._open_gate()
        waits = [asyncio.create_task(wait()) for wait in (self._breaker.wait, self._stopped.wait)]
        try:
            while not any(task.done() for task in waits):
                self._tick()
                # While the leader is awake the triggers send no NOTIFY. With the breaker open this worker delivers
                # nothing, so it wakes the other daemons.
                await self._listener.peers.ring()
                await asyncio.wait(waits, timeout=_RING_WAITING_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def _drain(self, *, thorough: bool) -> int:
        """Claim until nothing is left to claim. Return how many events that were.

        `thorough`: also old events, if they were not looked for lately.
        """
        total = 0
        while not self._stopping and not self._breaker.is_open:
            # One runtime for the whole batch: a reload may remove the rule.
            self._decider.raise_failure()
            runtime, slots = await self._reserve_slots(await self._wait_for_capacity())
            shares, read_all_at = self._decider.free(runtime.delivery.active_shares), self._claimer.pace.read_all_at
            events = await self._claimer.claim(slots.number, shares, thorough=thorough)
            if self._claimer.pace.read_all_at > read_all_at:
                runtime.delivery.suspensions.end_idle(set(shares) - {event.rule for event in events})
            total += len(events)
            queued = await self._decider.decide_and_queue(runtime, events, slots)
            await self._rate_limiter.refund(slots, queued)
            if len(events) < slots.number or not slots.number:
                break
            await self._listener.peers.ring()
        return total

    async def _wait_for_capacity(self) -> int:
        """Wait until there is room, and return how many events may be claimed."""
        in_flight = self._senders.in_flight
        capacity = in_flight.capacity
        # The size of what waits to be sent is bounded too: a batch of rows may take as much again.
        while (
            in_flight.to_send > (0 if self._breaker.is_probing else capacity // 2)
            or in_flight.queued_bytes > MAX_BATCH_BYTES // 2
            or self._decider.is_occupied(self.runtime)
        ):
            if self._stopping or self._breaker.is_open:
                return 0
            self._tick()
            await self._open_gate()
            await self._wait_for_slot(_CAPACITY_CHECK_S)
            # At capacity this worker is of no use to new events, so it wakes the others.
            await self._listener.peers.ring()
        return 1 if self._breaker.is_probing else int(min(capacity - in_flight.to_send, self._decider.rows_per_batch))

    async def _reserve_slots(self, limit: int) -> tuple[Runtime, Slots]:
        """Wait for a sending slot. Return the runtime by whose rate it was reserved, and the slots that come now.

        No more events than these are claimed. A reload takes effect while the worker still waits.
        """
        while limit and not (self._stopping or self._breaker.is_open):
            runtime = self.runtime
            slots = await self._rate_limiter.reserve(limit, runtime.max_rate)
            if slots.number:
                return runtime, slots
            self._tick()
            await self._open_gate()
            await self._wait_for_slot(min(slots.wait, 1.0))
        return self.runtime, Slots(0)

    async def _wait_for_slot(self, seconds: float) -> None:
        # A rule's first event must not wait until the changes before it are claimed.
        if not await self._claimer.take_over():
            await self._senders.in_flight.wait_for_slot(seconds)
