"""How much a worker claims."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from listener.config.sections import DeliverySettings
from listener.notify.doorbell import Doorbell
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import Slots
from listener.worker.claimer import Claimer
from listener.worker.decider import Decider
from listener.worker.decision import ToSend
from listener.worker.in_flight import MAX_EVENTS, InFlight
from listener.worker.loop import Worker
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.runtime import Runtime
from tests.support.clock import jumping, now
from tests.support.events import event as rule_event
from tests.unit.worker.test_sender import JANE


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


class FakeOutbox:
    async def with_repeats(self, events: list[Event], again_after: float | None) -> list[Event]:
        return events


class FakeInbox:
    """`batches`: so many times, a worker of several rules may take changes over."""

    def __init__(self) -> None:
        self.batches = self.taken = 0

    @property
    def has_hidden_rules(self) -> bool:
        return self.taken < self.batches

    async def take_over(self) -> None:
        self.taken += 1


def parts(senders: FakeSenders) -> tuple[Worker, Claimer]:
    async def nothing() -> None: ...

    listener: Any = SimpleNamespace(gate=SimpleNamespace(open=nothing), peers=SimpleNamespace(ring=nothing))
    breaker: Any = SimpleNamespace(is_probing=False, is_open=False)
    anything: Any = None
    decider = Decider(FakeOutbox(), anything, senders, anything, Doorbell())  # type: ignore[arg-type]
    claimer = Claimer(SimpleNamespace(inbox=FakeInbox()), senders.in_flight, decider)  # type: ignore[arg-type]
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


async def test_changes_that_may_hide_another_rules_are_taken_over_while_it_waits() -> None:
    senders = FakeSenders(2 * MAX_BATCH_BYTES)
    worker, claimer = parts(senders)
    inbox = claimer._outbox.inbox
    inbox.batches = 4  # type: ignore[attr-defined]
    await worker._wait_for_capacity()
    assert (inbox.taken, senders.in_flight.waits) == (4, 6)  # type: ignore[attr-defined]


class FakeDelivery:
    """Every row has so many bytes."""

    def __init__(self, size: int, rules: int = 1) -> None:
        self.size = size
        self.policies = defaultdict(DeliverySettings)
        self.rules = {f"rule{number}": SimpleNamespace(table="public.dateplan", each="") for number in range(rules)}
        self.budgets: list[int] = []

    def message_id(self, event: Event) -> str:
        return f"key{event.id}"

    async def triage(self, rule: str, events: list[Event], pool: Any, budget: int) -> list[ToSend | Settlement]:
        self.budgets.append(budget)
        fit = min(len(events), max(0, -(-budget // self.size)))
        to_send: list[ToSend | Settlement] = [ToSend(each, JANE, {}, self.size) for each in events[:fit]]
        return to_send + [Settlement(each, "available") for each in events[fit:]]


def runtime(delivery: FakeDelivery) -> Runtime:
    return Runtime(delivery, None, None, None)  # type: ignore[arg-type]


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


def sleeper(*, urgent: bool, poll: float) -> Worker:
    """Return a worker whose last claim that read everything took 20 ms, and who may read everything 0.4 s later."""
    worker, claimer = parts(FakeSenders(0))
    now = asyncio.get_running_loop().time()
    claimer.pace.read_all(now - 0.02, now, ["a"], found_end=True)
    claimer.pace.is_urgent = urgent
    worker._poll_s = poll
    worker._listener = SimpleNamespace(is_rung=True, doorbell=Doorbell())  # type: ignore[assignment]
    return worker


@jumping
async def test_it_does_not_sleep_before_old_events_were_looked_for() -> None:
    """A transaction that began long ago may have rung. The claim after the ring reads only recent events."""
    began = now()
    await sleeper(urgent=True, poll=60)._sleep()
    assert 0.3 < now() - began < 1


@jumping
async def test_once_they_were_looked_for_it_sleeps_until_the_poll() -> None:
    began = now()
    await sleeper(urgent=False, poll=60)._sleep()
    assert now() - began == pytest.approx(60, abs=1)


class FakeGate:
    """The leader's gate."""

    def __init__(self) -> None:
        self.is_leader = True
        self.closed = self.held_by_stranger = False

    async def close(self) -> bool:
        self.closed = True
        return True

    async def open(self) -> None:
        self.closed = False


async def test_what_became_available_while_the_gate_was_open_is_looked_for_behind_it() -> None:
    """The claims of a turn: recent events first, and behind the closed gate all of them."""
    worker, claimer = parts(FakeSenders(0))
    gate, asked = FakeGate(), []
    worker._listener.gate = gate  # type: ignore[assignment]
    worker._listener.doorbell = Doorbell()
    worker._listener.is_rung = True  # type: ignore[misc]

    async def drain(*, thorough: bool) -> int:
        asked.append((thorough, gate.closed))
        if thorough and claimer.pace.window(clock(), ["a"], thorough=True) is None:
            claimer.pace.read_all(clock(), clock() + 0.02, ["a"], found_end=True)
        return 1 if len(asked) == 1 else 0

    async def sleep() -> None:
        slept.append(claimer.pace.is_urgent)
        worker._stopped.set()

    clock, slept = asyncio.get_running_loop().time, []
    worker._drain, worker._sleep = drain, sleep  # type: ignore[method-assign]
    await worker._run_until_error()
    assert asked == [(False, False), (False, False), (True, True)]
    assert slept == [False]
    # Everything was read a moment ago, so this turn reads recent events only. The next sleep is a short one.
    worker._stopped.clear()
    gate.closed = False
    asked.clear()
    await worker._run_until_error()
    assert asked[-1] == (True, True)
    assert slept == [False, True]


@pytest.mark.parametrize("reads_everything", [True, False])
async def test_only_a_claim_that_reads_everything_shows_that_a_rule_has_no_event(reads_everything: bool) -> None:
    """A suspended rule whose old events were not looked for stays suspended."""
    worker, _ = parts(FakeSenders(0))

    async def nothing_hidden() -> bool:
        return False

    pace, limiter, ended = SimpleNamespace(read_all_at=0.0), FakeRateLimiter(), list[set[str]]()

    async def claim(*_: Any, **__: Any) -> list[Event]:
        pace.read_all_at += reads_everything
        return [rule_event(1, rule="other")]

    async def nothing(*_: Any) -> int:
        return 0

    limiter.refund = nothing  # type: ignore[attr-defined]
    worker._rate_limiter = limiter  # type: ignore[assignment]
    worker._claimer = SimpleNamespace(pace=pace, claim=claim, take_over=nothing_hidden)  # type: ignore[assignment]
    worker._decider.decide_and_queue = nothing  # type: ignore[method-assign]
    suspensions = SimpleNamespace(end_idle=ended.append)
    delivery: Any = SimpleNamespace(active_shares={"paid": 1, "other": 1}, suspensions=suspensions)
    worker.runtime = runtime(delivery)
    assert await worker._drain(thorough=True) == 1
    assert ended == ([{"paid"}] if reads_everything else [])
