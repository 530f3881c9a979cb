"""Look claimed events up, the rules side by side, and queue or settle each."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, RuleBroken, StatementTimeout
from listener.notify.doorbell import Doorbell
from listener.outage import Outage
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import RateLimiter, Slots
from listener.outbox.store import Outbox
from listener.worker.decision import ToSend
from listener.worker.delivery import queued_bytes
from listener.worker.lookup_runs import LookupRuns
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.runtime import Runtime
from listener.worker.sender import Senders
from listener.worker.spreading import spread

# The lookups of one batch usually end within this time, also the first ones. The next claim does not wait for those that
# do not.
_TOGETHER_S = 0.2
# A late lookup under a rate limit needs slots of its own. Its answer about consent is used for so long at most.
_LATE_SLOTS_S = 1.0


@dataclass(slots=True)
class _Batch:
    """The events of one claim. While `is_open`, its sending slots are kept for those whose lookup ends."""

    runtime: Runtime
    next_slots: Iterator[float | None]
    is_open: bool = True
    queued: int = 0
    octets: int = 0


class Decider:
    """Turn claimed events into queued ones.

    A rule whose lookup takes long is busy: nothing more of it is claimed until the lookup has ended. The other rules go on.

    `busy`: since when the lookup of each busy rule runs, on the loop's clock. `rows_per_batch`: how many rows as large as
    the last ones fit into the memory that a batch may take.
    """

    def __init__(
        self, outbox: Outbox, lookups: Pool, senders: Senders, rate_limiter: RateLimiter, doorbell: Doorbell
    ) -> None:
        self.busy: dict[str, float] = {}
        self.rows_per_batch = math.inf
        self._timeout: StatementTimeout | None = None
        self._runs = LookupRuns(lookups, senders.in_flight)
        self._outbox = outbox
        self._senders = senders
        self._rate_limiter = rate_limiter
        self._doorbell = doorbell
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._outage = Outage("lookup_timed_out", first=1.0, longest=1.0)

    def free(self, shares: Mapping[str, int]) -> dict[str, int]:
        """Return those of the rules that are not busy."""
        return {rule: share for rule, share in shares.items() if rule not in self.busy}

    def is_occupied(self, runtime: Runtime) -> bool:
        """Return whether nothing can be claimed, because every rule is busy."""
        return bool(self.busy) and not self.free(runtime.delivery.active_shares)

    async def decide_and_queue(self, runtime: Runtime, events: list[Event], slots: Slots) -> int:
        """Look up claimed events. Queue those that are to be sent, settle the others. Return how many have used a slot.

        A lookup that takes long goes on in the background.

        Raises:
            DatabaseUnavailable: a lookup could not be made. Its events are released.
        """
        first_slot = asyncio.get_running_loop().time() + slots.wait
        batch = _Batch(runtime, _times(first_slot, slots.interval))
        by_rule: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_rule[event.rule].append(replace(event, message_id=runtime.delivery.message_id(event)))
        tasks = [self._start(batch, rule, group) for rule, group in by_rule.items()]
        if tasks:
            await asyncio.wait(tasks, timeout=_TOGETHER_S)
        batch.is_open = False
        self._note_size(batch.queued, batch.octets)
        self.raise_failure()
        return batch.queued

    def raise_failure(self, *, timeout: bool = False) -> None:
        """Raise what has failed in the background since the last call. `timeout`: also that a lookup ran out of time.

        Raises:
            DatabaseUnavailable: a lookup could not be made.
        """
        failure, self._failure = self._failure, None
        if timeout and failure is None:
            failure = self._timeout
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Release the events whose lookup is running."""
        for task in self._tasks.values():
            task.cancel()

    def _start(self, batch: _Batch, rule: str, events: list[Event]) -> asyncio.Task[None]:
        self.busy[rule] = asyncio.get_running_loop().time()
        self._tasks[rule] = task = asyncio.create_task(self._decide(batch, rule, events), name=f"lookup {rule}")
        task.add_done_callback(lambda done: self._ended(batch, rule, done))
        return task

    def _ended(self, batch: _Batch, rule: str, task: asyncio.Task[None]) -> None:
        del self.busy[rule], self._tasks[rule]
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = failure
        if not batch.is_open:
            # The loop has claimed without this rule, and perhaps it sleeps.
            self._doorbell.ring("lookup")
            self._senders.in_flight.wake()

    async def _decide(self, batch: _Batch, rule: str, events: list[Event]) -> None:
        """Look up the events of one rule, and queue or settle each. However this ends, none of them stays claimed."""
        left = {event.fence: event for event in events}
        try:
            to_send, looked_up_at = await self._look_up(batch.runtime, rule, left)
            if batch.is_open:
                batch.octets += queued_bytes(to_send)
                self._queue(batch.runtime, to_send, looked_up_at, batch.next_slots, left)
                batch.queued += len(to_send)
            else:
                self._note_size(len(to_send), queued_bytes(to_send))
                await self._queue_late(batch.runtime, to_send, looked_up_at, left)
        except RuleBroken as exc:
            batch.runtime.delivery.suspensions.suspend(rule, exc)
        except StatementTimeout as exc:
            self._timeout = exc
            self._outage.failed(exc, rule=rule)
        except DatabaseUnavailable as exc:
            self._failure = exc
        finally:
            for event in left.values():
                self._senders.settle(Settlement(event, "available"))

    async def _look_up(
        self, runtime: Runtime, rule: str, left: dict[tuple[int, int], Event]
    ) -> tuple[list[ToSend], float]:
        """Settle the events that are not to be sent, and remove them from `left`.

        Return what is to be sent, and when it was looked up, on the loop's clock.
        An event that is spread keeps its fence: it is then that of its first person.
        """
        in_flight, number = self._senders.in_flight, len(left)
        in_flight.looking_up += number
        try:
            again_after, each = runtime.delivery.policies[rule].again_after, runtime.delivery.rules[rule].each
            # Which person an event that is still to be spread will tell is not known yet. `spread` asks for it.
            unspread = [event for event in left.values() if each and event.person is None]
            others = [event for event in left.values() if not (each and event.person is None)]
            events = unspread + await self._outbox.with_repeats(others, again_after)
            found = await self._runs.triage(runtime.delivery, rule, events)
            # Before the spread: an answer about consent is as old as the lookup.
            looked_up_at = asyncio.get_running_loop().time()
            decided = await spread(self._outbox, found, again_after)
        finally:
            in_flight.looking_up -= number
        for decision in decided:
            if isinstance(decision, Settlement):
                del left[decision.event.fence]
                self._senders.settle(decision)
        return [decision for decision in decided if isinstance(decision, ToSend)], looked_up_at

    def _queue(
        self,
        runtime: Runtime,
        to_send: Iterable[ToSend],
        looked_up_at: float,
        slots: Iterator[float | None],
        left: dict[tuple[int, int], Event],
    ) -> None:
        for each, send_at in zip(to_send, slots, strict=False):
            del left[each.event.fence]
            self._senders.queue(runtime, each, looked_up_at, send_at)

    async def _queue_late(
        self, runtime: Runtime, to_send: list[ToSend], looked_up_at: float, left: dict[tuple[int, int], Event]
    ) -> None:
        """Queue what a lookup has found after the slots of its batch were released. Events without a slot stay in `left`."""
        loop = asyncio.get_running_loop()
        while to_send:
            slots = await self._rate_limiter.reserve(len(to_send), runtime.max_rate)
            now, to_send, rest = loop.time(), to_send[: slots.number], to_send[slots.number :]
            self._queue(runtime, to_send, looked_up_at, _times(now + slots.wait, slots.interval), left)
            to_send = rest
            if not to_send or now + slots.wait - looked_up_at > _LATE_SLOTS_S:
                break
            await asyncio.sleep(slots.wait)

    def _note_size(self, number: int, octets: int) -> None:
        if octets:
            self.rows_per_batch = max(1, MAX_BATCH_BYTES * number // octets)


def _times(first: float, interval: float) -> Iterator[float | None]:
    """Yield the sending slots from `first` on, on the loop's clock; without an interval: None, for ever."""
    while True:
        yield first if interval else None
        first += interval
