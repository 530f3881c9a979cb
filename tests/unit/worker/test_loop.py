"""How much a worker claims."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import Slots
from listener.worker.claimer import Claimer
from listener.worker.decision import ToSend
from listener.worker.in_flight import MAX_EVENTS, InFlight
from listener.worker.loop import Worker
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.runtime import Runtime
from tests.unit.worker.test_sender import JANE, event


class FakeInFlight(InFlight):
    """Empty, with so many bytes queued as a test says, fewer with each wait."""

    def __init__(self, queued_bytes: int) -> None:
        super().__init__(MAX_EVENTS)
        self.queued_bytes = queued_bytes
        self.waits = 0

    async def wait_for_slot(self, timeout: float | None = None) -> None:
        self.waits += 1
        self.queued_bytes -= MAX_BATCH_BYTES // 4


class FakeSenders:
    def __init__(self, queued_bytes: int) -> None:
        self.in_flight = FakeInFlight(queued_bytes)
        self.released: list[Settlement] = []

    def queue(self, *_: Any) -> None: ...

    def settle(self, settlement: Settlement) -> None:
        self.released.append(settlement)


def parts(senders: FakeSenders) -> tuple[Worker, Claimer]:
    async def nothing() -> None: ...

    listener: Any = SimpleNamespace(gate=SimpleNamespace(open=nothing), peers=SimpleNamespace(ring=nothing))
    breaker: Any = SimpleNamespace(is_probing=False, is_open=False)
    anything: Any = None
    claimer = Claimer(anything, anything, senders)  # type: ignore[arg-type]
    worker = Worker(claimer, senders, listener, breaker, anything, runtime=anything, poll=1)  # type: ignore[arg-type]
    return worker, claimer


@pytest.mark.parametrize(
    ("queued", "waits"), [(0, 0), (MAX_BATCH_BYTES // 2, 0), (MAX_BATCH_BYTES // 2 + 1, 1), (2 * MAX_BATCH_BYTES, 6)]
)
async def test_no_more_is_claimed_while_much_waits(queued: int, waits: int) -> None:
    senders = FakeSenders(queued)
    worker, _ = parts(senders)
    assert await worker._wait_for_capacity() == MAX_EVENTS
    assert senders.in_flight.waits == waits


class FakeDelivery:
    """Every row has so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.budgets: list[int] = []

    async def triage(self, rule: str, events: list[Event], pool: Any, budget: int) -> list[ToSend | Settlement]:
        self.budgets.append(budget)
        fit = min(len(events), max(0, -(-budget // self.size)))
        to_send: list[ToSend | Settlement] = [ToSend(each, JANE, {}, self.size) for each in events[:fit]]
        return to_send + [Settlement(each, "available") for each in events[fit:]]


def runtime(delivery: FakeDelivery) -> Runtime:
    return Runtime(delivery, None, None, None)  # type: ignore[arg-type]


async def test_the_rules_of_a_claim_share_what_may_be_read() -> None:
    senders, delivery = FakeSenders(0), FakeDelivery(MAX_BATCH_BYTES // 4)
    worker, claimer = parts(senders)
    events = [event(number) for number in range(8)]
    rules = [
        Event(each.id, f"rule{each.id % 4}", each.key, *(0, 0, each.captured_at, 0.0, 1, False, None))
        for each in events
    ]
    assert await claimer.decide_and_queue(runtime(delivery), rules, Slots(8)) == 4
    assert delivery.budgets == [MAX_BATCH_BYTES, MAX_BATCH_BYTES // 2, 0, 0]
    assert len(senders.released) == 4
    # The next claim takes as many as such rows fit.
    assert await worker._wait_for_capacity() == 4
    await claimer.decide_and_queue(runtime(FakeDelivery(100)), events, Slots(8))
    assert await worker._wait_for_capacity() == MAX_EVENTS
    assert not math.isinf(claimer.rows_per_batch)


class FakeRateLimiter:
    """No slot at first. It notes the rate of each question."""

    def __init__(self) -> None:
        self.rates: list[float | None] = []

    async def reserve(self, limit: int, ceiling: float | None) -> Slots:
        self.rates.append(ceiling)
        return Slots(0, wait=10.0) if len(self.rates) == 1 else Slots(limit)


async def test_a_reload_takes_effect_while_the_worker_waits_for_a_slot() -> None:
    """Else a daemon that was slow by mistake stays slow for as long as its next slot is away."""
    worker, _ = parts(FakeSenders(0))
    limiter = FakeRateLimiter()
    slow, fast = (Runtime(None, None, None, rate) for rate in (0.1, 100.0))  # type: ignore[arg-type]
    worker._rate_limiter, worker.runtime = limiter, slow  # type: ignore[assignment]

    async def reload(_: float | None = None) -> None:
        worker.runtime = fast

    worker._senders.in_flight.wait_for_slot = reload  # type: ignore[method-assign]
    runtime, slots = await worker._reserve_slots(5)
    assert limiter.rates == [0.1, 100.0]
    assert (runtime, slots) == (fast, Slots(5))
