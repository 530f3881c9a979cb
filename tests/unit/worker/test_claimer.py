"""A claim whose answer is lost leaves no event behind, and one broken rule stops no other."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from listener.config.sections import DeliverySettings
from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import Slots
from listener.worker.claimer import Claimer
from listener.worker.in_flight import InFlight
from listener.worker.lookup import ToSend
from tests.support.clock import jumping, now
from tests.support.events import JANE, event


class FakeOutbox:
    """Answers each claim with the next of `answers`, and notes what it is asked."""

    def __init__(self, *answers: list[Event] | PgheraldError) -> None:
        self.asked: list[Any] = []
        self.worker = 7
        self._answers = iter(answers)

    async def claim(self, limit: int, rules: list[str], window: float | None) -> list[Event]:
        self.asked.append("claim")
        answer = next(self._answers)
        if isinstance(answer, PgheraldError):
            raise answer
        return answer

    async def with_repeats(self, events: list[Event], again_after: float | None) -> list[Event]:
        self.asked.append(("repeats", again_after))
        return events

    async def release_lost_claims(self, known: Collection[tuple[int, int]]) -> int:
        self.asked.append(("release all but", list(known)))
        return 0

    def is_leased(self, worker: int) -> bool:
        return worker == self.worker


class FakeSenders:
    def __init__(self) -> None:
        self.in_flight = InFlight(8)
        self.queued: dict[int, float | None] = {}
        self.settled: list[tuple[int, str]] = []

    def queue(self, runtime: Any, to_send: ToSend, looked_up_at: float, send_at: float | None) -> None:
        self.queued[to_send.event.id] = send_at

    def settle(self, settlement: Settlement) -> None:
        self.settled.append((settlement.event.id, settlement.state))


class FakeDelivery:
    """Sends every event, except those of a rule that has an error."""

    def __init__(self, errors: dict[str, PgheraldError]) -> None:
        self.suspended: list[str] = []
        self.suspensions = SimpleNamespace(suspend=lambda rule, exc: self.suspended.append(rule))
        self.policies = defaultdict(DeliverySettings)
        self._errors = errors

    def message_id(self, event: Event) -> str:
        return f"key{event.id}"

    async def triage(self, rule: str, events: list[Event], *_: Any) -> list[ToSend]:
        if rule in self._errors:
            raise self._errors[rule]
        return [ToSend(each, JANE, {}, 100) for each in events]


def claimer(outbox: Any, senders: Any) -> Claimer:
    return Claimer(outbox, None, senders)  # type: ignore[arg-type]


@jumping
async def test_after_a_claim_without_answer_lost_claims_are_released_first() -> None:
    """The claim may have been made. Nobody else touches those events while this worker lives."""
    outbox, senders = FakeOutbox([event(1)], DatabaseUnavailable("no answer"), [], []), FakeSenders()
    claiming = claimer(outbox, senders)
    await claiming.claim(10, ["a"])
    with pytest.raises(DatabaseUnavailable):
        await claiming.claim(10, ["a"])
    await claiming.claim(10, ["a"])
    await claiming.claim(10, ["a"])
    assert outbox.asked == ["claim", "claim", ("release all but", [(1, 40)]), "claim", "claim"]


@jumping
async def test_lost_claims_are_looked_for_every_ten_seconds() -> None:
    """A claim may still be made after its connection was lost, and after the first look."""
    outbox = FakeOutbox([], [], [])
    claiming = claimer(outbox, FakeSenders())
    for _ in range(3):
        await asyncio.sleep(6)
        await claiming.claim(10, ["a"])
    assert outbox.asked == ["claim", ("release all but", []), "claim", "claim"]


@jumping
async def test_an_event_is_bound_to_the_lease_of_its_claim() -> None:
    """After a new registration another worker may have the event, so this worker must not send it."""
    outbox, senders = FakeOutbox([event(1)], [event(2)]), FakeSenders()
    claiming = claimer(outbox, senders)
    await claiming.claim(10, ["a"])
    outbox.worker = 8
    await claiming.claim(10, ["a"])
    assert [senders.in_flight.holds_lease(event(number))() for number in (1, 2)] == [False, True]


@pytest.mark.parametrize(
    ("error", "suspended", "raises"),
    [(RuleBroken("no such column"), ["b"], False), (DatabaseUnavailable("down"), [], True)],
)
@jumping
async def test_a_lookup_that_fails_releases_its_events_only(
    error: PgheraldError, suspended: list[str], raises: bool
) -> None:
    senders, delivery = FakeSenders(), FakeDelivery({"b": error})
    runtime: Any = SimpleNamespace(delivery=delivery)
    events = [event(number, rule=rule) for number, rule in enumerate("abcb", 1)]
    deciding = claimer(FakeOutbox(), senders).decide_and_queue(runtime, events, Slots(4))
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
    runtime: Any = SimpleNamespace(delivery=FakeDelivery({}))
    await asyncio.sleep(10)
    events = [event(number) for number in (1, 2, 3)]
    await claimer(FakeOutbox(), senders).decide_and_queue(runtime, events, Slots(3, wait=1.0, interval=0.5))
    assert (now(), senders.queued) == (10, {1: 11.0, 2: 11.5, 3: 12.0})
