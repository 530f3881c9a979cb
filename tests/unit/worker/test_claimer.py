"""A claim whose answer is lost leaves no event behind."""

import asyncio
import math
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from listener.errors import DatabaseUnavailable, PgheraldError
from listener.outbox.event import Event
from listener.outbox.turns import Turn
from listener.worker.claimer import Claimer
from listener.worker.in_flight import InFlight
from tests.support.clock import jumping
from tests.support.events import event


class FakeOutbox:
    """Answers each claim with the next of `answers`, and notes what it is asked."""

    def __init__(self, *answers: list[Event] | PgheraldError) -> None:
        self.asked: list[Any] = []
        self.worker = 7
        self.inbox = self
        self.has_more = False
        self.shrunk_after: list[int] = []
        self._answers = iter(answers)

    async def claim(self, limit: int, turns: Sequence[Turn], window: float | None) -> list[Event]:
        self.asked.append("claim")
        answer = next(self._answers)
        if isinstance(answer, PgheraldError):
            raise answer
        return answer

    async def release_lost_claims(self, known: Collection[tuple[int, int]]) -> int:
        self.asked.append(("release all but", list(known)))
        return 0

    async def shrink(self) -> None:
        self.shrunk_after.append(self.asked.count("claim"))

    def is_leased(self, worker: int) -> bool:
        return worker == self.worker


def claimer(outbox: Any, in_flight: InFlight) -> Claimer:
    return Claimer(outbox, in_flight, None)  # type: ignore[arg-type]


@jumping
async def test_after_a_claim_without_answer_lost_claims_are_released_first() -> None:
    """The claim may have been made. Nobody else touches those events while this worker lives."""
    outbox, in_flight = FakeOutbox([event(1)], DatabaseUnavailable("no answer"), [], []), InFlight(8)
    claiming = claimer(outbox, in_flight)
    await claiming.claim(10, {"a": 1})
    with pytest.raises(DatabaseUnavailable):
        await claiming.claim(10, {"a": 1})
    await claiming.claim(10, {"a": 1})
    await claiming.claim(10, {"a": 1})
    assert outbox.asked == ["claim", "claim", ("release all but", [(1, 40)]), "claim", "claim"]


@jumping
async def test_lost_claims_are_looked_for_every_ten_seconds() -> None:
    """A claim may still be made after its connection was lost, and after the first look."""
    outbox = FakeOutbox([], [], [])
    claiming = claimer(outbox, InFlight(8))
    for _ in range(3):
        await asyncio.sleep(6)
        await claiming.claim(10, {"a": 1})
    assert outbox.asked == ["claim", ("release all but", []), "claim", "claim"]


@jumping
async def test_an_event_is_bound_to_the_lease_of_its_claim() -> None:
    """After a new registration another worker may have the event, so this worker must not send it."""
    outbox, in_flight = FakeOutbox([event(1)], [event(2)]), InFlight(8)
    claiming = claimer(outbox, in_flight)
    await claiming.claim(10, {"a": 1})
    outbox.worker = 8
    await claiming.claim(10, {"a": 1})
    assert [in_flight.holds_lease(event(number))() for number in (1, 2)] == [False, True]


@jumping
async def test_the_inbox_is_shrunk_after_a_claim_that_found_nothing() -> None:
    """Before a claim that a ring woke, the inbox is never empty."""
    outbox = FakeOutbox([event(1)], [], [], [event(2)], [])
    claiming = claimer(outbox, InFlight(8))
    await asyncio.sleep(11)
    for _ in range(3):
        await claiming.claim(10, {"a": 1})
    assert outbox.shrunk_after == [2]
    await asyncio.sleep(11)
    for _ in range(2):
        await claiming.claim(10, {"a": 1})
    assert outbox.shrunk_after == [2, 5]


@jumping
@pytest.mark.parametrize("has_more", [False, True])
async def test_a_claim_that_leaves_changes_in_the_inbox_has_not_read_everything(has_more: bool) -> None:
    outbox = FakeOutbox([event(1)])
    outbox.has_more = has_more
    claiming = claimer(outbox, InFlight(8))
    await claiming.claim(10, {"a": 1})
    assert math.isinf(claiming.pace.read_all_at) is has_more
