"""Lookups run side by side: one that fails or waits stops no other rule."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken, SchemaError, StatementTimeout
from listener.notify.doorbell import Doorbell
from listener.outbox.event import Event, Repeat, Settlement
from listener.outbox.rate_limit import Slots
from listener.worker import lookup_runs
from listener.worker.decider import Decider
from listener.worker.decision import ToSend, ToSpread
from listener.worker.in_flight import InFlight
from listener.worker.row_budget import MAX_BATCH_BYTES
from tests.support.clock import jumping, now
from tests.support.events import JANE, event


class FakeSenders:
    def __init__(self) -> None:
        self.in_flight = InFlight(8)
        self.queued: dict[int, float | None] = {}
        self.persons: dict[int, str | None] = {}
        self.looked_up_at: dict[int, float] = {}
        self.settled: list[tuple[int, str]] = []

    def queue(self, runtime: Any, to_send: ToSend, looked_up_at: float, send_at: float | None) -> None:
        number = to_send.event.id
        self.queued[number], self.looked_up_at[number] = send_at, looked_up_at
        self.persons[number] = to_send.event.person
        self.in_flight.queued_bytes += to_send.octets

    def settle(self, settlement: Settlement) -> None:
        self.settled.append((settlement.event.id, settlement.state))


class FakeOutbox:
    """No row had an email before, except those with an answer here. A spread takes a second, or fails with an error."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, str | None]]] = []
        self.repeats: dict[int, Repeat] = {}
        self.lost: set[int] = set()
        self.error: PgheraldError | None = None

    async def with_repeats(self, events: list[Event], again_after: float | None) -> list[Event]:
        self.asked.append([(event.id, event.person) for event in events])
        return [replace(event, repeat=self.repeats.get(event.id)) for event in events]

    async def spread(self, events: Sequence[tuple[Event, Sequence[str]]]) -> dict[tuple[int, int], str | None]:
        await asyncio.sleep(1.0)
        if self.error is not None:
            raise self.error
        return {event.fence: None for event, _ in events if event.id not in self.lost}


class FakeDelivery:
    """Sends every event, except those of a rule that has an error or is locked until a moment.

    Of a rule in `each`, an event without a person is for two.
    """

    def __init__(self, rules: str = "a", errors: dict[str, PgheraldError] | None = None, size: int = 100) -> None:
        self.rules: Any = {rule: SimpleNamespace(table=f"public.{rule}", each="") for rule in rules}
        self.policies = dict.fromkeys(self.rules, SimpleNamespace(again_after=None))
        self.active_shares = dict.fromkeys(self.rules, 1)
        self.suspended: list[str] = []
        self.suspensions = SimpleNamespace(suspend=lambda rule, exc: self.suspended.append(rule))
        self.budgets: list[int] = []
        self.locked_until: dict[str, float] = {}
        self.takes = dict[str, float]()
        self.running = self.most = 0
        self._errors = errors or {}
        self._size = size

    def message_id(self, event: Event) -> str:
        return f"key{event.id}"

    async def triage(
        self, rule: str, events: list[Event], pool: Any, budget: int
    ) -> list[ToSend | ToSpread | Settlement]:
        if rule in self._errors:
            raise self._errors[rule]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.locked_until.get(rule, 0.0) > now():
                await asyncio.sleep(0.25)
                raise StatementTimeout("canceling statement due to lock timeout")
            await asyncio.sleep(self.takes.get(rule, 0.001))
        finally:
            self.running -= 1
        self.budgets.append(budget)
        fit = min(len(events), -(-budget // self._size))
        decided = [self._decide(each) for each in events[:fit]]
        return decided + [Settlement(each, "available") for each in events[fit:]]

    def _decide(self, event: Event) -> ToSend | ToSpread:
        if self.rules[event.rule].each and event.person is None:
            first = replace(event, person="jane")
            return ToSpread(event, ["jane", "joe"], ToSend(first, JANE, {}, self._size))
        return ToSend(event, JANE, {}, self._size)


class FakeRateLimiter:
    """Two slots at a time, half a second apart."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def reserve(self, limit: int, ceiling: float | None) -> Slots:
        if ceiling is None:
            return Slots(limit)
        self.asked.append(limit)
        return Slots(min(limit, 2), wait=0.1, interval=0.5)


def runtime(delivery: FakeDelivery, rate: float | None = None) -> Any:
    return SimpleNamespace(delivery=delivery, max_rate=rate)


def decider(senders: FakeSenders, limiter: FakeRateLimiter | None = None, outbox: FakeOutbox | None = None) -> Decider:
    return Decider(outbox or FakeOutbox(), None, senders, limiter or FakeRateLimiter(), Doorbell())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "suspended", "raises"),
    [(RuleBroken("no such column"), ["b"], False), (DatabaseUnavailable("down"), [], True)],
)
@jumping
async def test_a_lookup_that_fails_releases_its_events_only(
    error: PgheraldError, suspended: list[str], raises: bool
) -> None:
    senders, delivery = FakeSenders(), FakeDelivery("abc", {"b": error})
    events = [event(number, rule=rule) for number, rule in enumerate("abcb", 1)]
    deciding = decider(senders).decide_and_queue(runtime(delivery), events, Slots(4))
    if raises:
        with pytest.raises(DatabaseUnavailable):
            await deciding
    else:
        assert await deciding == 2
    assert senders.queued.keys() == {1, 3}
    assert senders.settled == [(2, "available"), (4, "available")]
    assert delivery.suspended == suspended


@jumping
async def test_each_email_gets_its_sending_slot() -> None:
    """Under a rate limit emails that leave together would be answered by throttling."""
    senders = FakeSenders()
    await asyncio.sleep(10)
    began = now()
    events = [event(number, rule="a") for number in (1, 2, 3)]
    await decider(senders).decide_and_queue(runtime(FakeDelivery()), events, Slots(3, wait=1.0, interval=0.5))
    assert senders.queued == {1: began + 1.0, 2: began + 1.5, 3: began + 2.0}


@jumping
async def test_a_locked_table_makes_its_rule_busy_and_nothing_else() -> None:
    senders, delivery = FakeSenders(), FakeDelivery("ab")
    deciding = decider(senders)
    delivery.locked_until["a"] = now() + 10
    events = [event(1, rule="a"), event(2, rule="b")]
    began = now()
    assert await deciding.decide_and_queue(runtime(delivery), events, Slots(2)) == 1
    assert now() - began < 0.25
    assert senders.queued.keys() == {2}
    assert (deciding.busy.keys(), deciding.free({"a": 1, "b": 1})) == ({"a"}, {"b": 1})
    assert senders.in_flight.looking_up == 1
    assert not deciding.is_occupied(runtime(delivery))
    assert deciding.is_occupied(runtime(SimpleNamespace(active_shares={"a": 1})))  # type: ignore[arg-type]
    await deciding._doorbell.wait()
    assert 10 <= now() - began < 12
    assert (senders.queued.keys(), deciding.busy, senders.in_flight.looking_up) == ({1, 2}, {}, 0)


@jumping
async def test_a_lock_that_lasts_releases_the_events_without_an_attempt() -> None:
    senders, delivery = FakeSenders(), FakeDelivery("ab")
    deciding = decider(senders)
    delivery.locked_until["a"] = now() + 100
    began = now()
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a")], Slots(1))
    await deciding._doorbell.wait()
    assert 25 < now() - began < 31
    assert senders.settled == [(1, "available")]
    # The database is well, so that the loop must not pause.
    deciding.raise_failure()
    with pytest.raises(StatementTimeout):
        deciding.raise_failure(timeout=True)


@pytest.mark.parametrize("together", [True, False])
@jumping
async def test_locked_tables_leave_connections_to_others(together: bool) -> None:
    """Twelve rules, on one table or on twelve, and each waits for its lock."""
    senders, delivery = FakeSenders(), FakeDelivery("abcdefghijklm")
    if together:
        delivery.rules.update((rule, SimpleNamespace(table="public.plan", each="")) for rule in "abcdefghijkl")
    deciding = decider(senders)
    delivery.locked_until = dict.fromkeys("abcdefghijkl", now() + 20)
    began = now()
    await deciding.decide_and_queue(
        runtime(delivery), [event(number, rule=rule) for number, rule in enumerate("abcdefghijkl")], Slots(12)
    )
    for number in range(100, 110):
        asked = now()
        await deciding.decide_and_queue(runtime(delivery), [event(number, rule="m")], Slots(1))
        while "m" in deciding.busy:
            await asyncio.sleep(0.01)
        # The first may come while each of twelve tables is tried for the first time, four by four.
        assert now() - asked < (0.8 if number == 100 else 0.3)
    assert now() - began < 3
    assert delivery.most <= 4
    assert deciding.busy.keys() == set("abcdefghijkl")
    while deciding.busy:
        await asyncio.sleep(0.1)
    assert senders.queued.keys() == {*range(12), *range(100, 110)}


@jumping
async def test_slow_lookups_leave_connections_to_others() -> None:
    senders, delivery = FakeSenders(), FakeDelivery("abcdef")
    deciding = decider(senders)
    delivery.takes = dict.fromkeys("abcde", 5.0)
    for _ in range(2):
        await deciding.decide_and_queue(runtime(delivery), [event(n, rule=r) for n, r in enumerate("abcde")], Slots(5))
        while deciding.busy and _ == 0:
            await asyncio.sleep(0.1)
    began = now()
    await deciding.decide_and_queue(runtime(delivery), [event(9, rule="f")], Slots(1))
    assert (9 in senders.queued, now() - began < 0.1) == (True, True)


@jumping
async def test_a_late_lookup_reserves_slots_of_its_own() -> None:
    """Those of its batch were released when the batch went on without it."""
    senders, delivery, limiter = FakeSenders(), FakeDelivery("ab"), FakeRateLimiter()
    deciding = decider(senders, limiter)
    delivery.takes["a"] = 5.0
    events = [event(number, rule="a") for number in range(40)]
    assert await deciding.decide_and_queue(runtime(delivery, 2.0), events, Slots(40, interval=0.5)) == 0
    await deciding._doorbell.wait()
    sent = len(senders.queued)
    assert limiter.asked == list(range(40, 40 - sent, -2))
    assert 2 <= sent < 40
    assert len(senders.settled) == 40 - sent
    assert all(slot is not None and slot > 5 for slot in senders.queued.values())


@jumping
async def test_an_internal_error_is_not_lost() -> None:
    senders, delivery = FakeSenders(), FakeDelivery("ab", {"a": KeyError("x")})  # type: ignore[dict-item]
    deciding = decider(senders)
    with pytest.raises(KeyError):
        await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a")], Slots(1))
    assert senders.settled == [(1, "available")]


@jumping
async def test_a_stop_releases_what_waits_for_a_lock() -> None:
    senders, delivery = FakeSenders(), FakeDelivery("ab")
    deciding = decider(senders)
    delivery.locked_until["a"] = now() + 20
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a")], Slots(1))
    deciding.stop()
    await asyncio.sleep(0.01)
    assert (senders.settled, deciding.busy) == ([(1, "available")], {})


@pytest.mark.parametrize(
    ("rules", "size", "queued"),
    [
        # One rule may fill a batch alone.
        ("a", MAX_BATCH_BYTES // 4, 4),
        # Of several, each has a quarter, and all together no more than one batch and what may wait beside it.
        ("ab", MAX_BATCH_BYTES // 16, 8),
        ("abcdefghijkl", MAX_BATCH_BYTES // 4, 6),
    ],
)
@jumping
async def test_the_rules_of_a_claim_share_what_may_be_read(rules: str, size: int, queued: int) -> None:
    senders, delivery = FakeSenders(), FakeDelivery(rules, size=size)
    deciding = decider(senders)
    events = [event(number, rule=rules[number % len(rules)]) for number in range(24)]
    assert await deciding.decide_and_queue(runtime(delivery), events, Slots(24)) == queued
    assert senders.in_flight.queued_bytes <= 1.5 * MAX_BATCH_BYTES
    assert len(senders.settled) == 24 - queued
    # The next claim takes as many as such rows fit.
    assert deciding.rows_per_batch == MAX_BATCH_BYTES // size
    assert lookup_runs._PART_BYTES * 4 == MAX_BATCH_BYTES


def spreading() -> tuple[FakeSenders, FakeOutbox, FakeDelivery, Decider]:
    senders, outbox, delivery = FakeSenders(), FakeOutbox(), FakeDelivery("a")
    delivery.rules["a"].each = "person"
    return senders, outbox, delivery, decider(senders, outbox=outbox)


async def ended(deciding: Decider) -> None:
    while deciding.busy:
        await asyncio.sleep(0.1)


@jumping
async def test_an_event_is_queued_as_that_of_its_first_person() -> None:
    """The consent that it is sent by is as old as the lookup, and the spread takes its time."""
    senders, _, delivery, deciding = spreading()
    began = now()
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a"), event(2, rule="a", person="joe")], Slots(2))
    await ended(deciding)
    assert senders.persons == {1: "jane", 2: "joe"}
    assert max(senders.looked_up_at.values()) < began + 0.5
    assert now() > began + 1.0
    assert (senders.settled, senders.in_flight.looking_up) == ([], 0)


@jumping
async def test_a_person_is_asked_about_once_the_event_is_theirs() -> None:
    """Before the spread nobody knows whose email would be a second one."""
    senders, outbox, delivery, deciding = spreading()
    outbox.repeats[1] = Repeat(datetime(2026, 1, 1, tzinfo=UTC))
    events = [event(1, rule="a"), event(2, rule="a"), event(3, rule="a", person="joe")]
    await deciding.decide_and_queue(runtime(delivery), events, Slots(3))
    await ended(deciding)
    assert outbox.asked == [[(3, "joe")], [(1, "jane"), (2, "jane")]]
    assert senders.persons == {2: "jane", 3: "joe"}
    assert senders.settled == [(1, "skipped")]


@pytest.mark.parametrize("error", [DatabaseUnavailable("down"), SchemaError("no privilege")])
@jumping
async def test_a_spread_that_fails_leaves_no_event_claimed(error: PgheraldError) -> None:
    senders, outbox, delivery, deciding = spreading()
    outbox.error = error
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a"), event(2, rule="a", person="joe")], Slots(2))
    await ended(deciding)
    with pytest.raises(type(error)):
        deciding.raise_failure()
    assert senders.queued == {}
    assert senders.settled == [(1, "available"), (2, "available")]


@jumping
async def test_an_event_that_another_worker_has_is_let_go() -> None:
    senders, outbox, delivery, deciding = spreading()
    outbox.lost = {1}
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a"), event(2, rule="a")], Slots(2))
    await ended(deciding)
    assert senders.persons == {2: "jane"}
    assert senders.settled == [(1, "available")]


@jumping
async def test_a_stop_during_a_spread_leaves_no_event_claimed() -> None:
    senders, _, delivery, deciding = spreading()
    await deciding.decide_and_queue(runtime(delivery), [event(1, rule="a"), event(2, rule="a", person="joe")], Slots(2))
    deciding.stop()
    await asyncio.sleep(0.01)
    assert (senders.settled, deciding.busy) == ([(1, "available"), (2, "available")], {})
