"""The number of events in flight follows what the mail server takes, and waits end when it changes."""

import asyncio
from datetime import timedelta

import pytest

from listener.worker.in_flight import MAX_EVENTS, InFlight
from tests.support.clock import jumping, now
from tests.support.events import CAPTURED_AT, event

MIN = 8


@pytest.mark.parametrize(
    ("settled", "seconds_ago", "capacity"),
    [(0, 0.0, MIN), (10, 0.0, MIN), (100, 0.0, 50), (100, 0.9, 50), (100, 1.1, MIN), (50_000, 0.0, MAX_EVENTS)],
    ids=["nothing yet", "slow server", "as settled", "still lately", "too long ago", "at most"],
)
@jumping
async def test_capacity_is_what_was_settled_lately(settled: int, seconds_ago: float, capacity: int) -> None:
    """Events claimed beyond this would wait while their check of consent gets old."""
    in_flight = InFlight(MIN)
    for _ in range(settled):
        in_flight.settled()
    await asyncio.sleep(seconds_ago)
    assert in_flight.capacity == capacity


@jumping
async def test_two_claims_of_one_event_are_two_in_flight() -> None:
    """The end of the old claim must not drop the new one: its event would be released as lost while it is sent."""
    in_flight = InFlight(MIN)
    old, new = event(1, claim=40), event(1, claim=41)
    in_flight.add([old], lambda: False, now())
    in_flight.add([new], lambda: True, now())
    assert (in_flight.holds_lease(old)(), in_flight.holds_lease(new)()) == (False, True)
    in_flight.remove(old)
    assert list(in_flight.fences) == [(1, 41)]


@jumping
async def test_an_event_that_ends_makes_room() -> None:
    in_flight = InFlight(MIN)
    in_flight.add([event(1)], lambda: True, now())
    asyncio.get_running_loop().call_later(3, in_flight.remove, event(1))
    await in_flight.wait_for_slot(10)
    assert (now(), len(in_flight)) == (3, 0)


@pytest.mark.parametrize(("ends_after", "empty", "waited"), [(3, True, 3), (30, False, 10)])
@jumping
async def test_a_shutdown_waits_for_the_last_event_but_not_for_ever(ends_after: int, empty: bool, waited: int) -> None:
    in_flight = InFlight(MIN)
    in_flight.add([event(1), event(2)], lambda: True, now())
    in_flight.remove(event(2))
    asyncio.get_running_loop().call_later(ends_after, in_flight.remove, event(1))
    assert await in_flight.wait_until_empty(10) is empty
    assert now() == waited


@jumping
async def test_the_age_is_by_the_databases_clock() -> None:
    """The database says that the first event is 5 s old. A wrong clock of this machine must not change that."""
    in_flight = InFlight(MIN)
    first, second = event(1, age=5.0), event(2, captured_at=CAPTURED_AT + timedelta(seconds=2), age=3.0)
    in_flight.add([first, second], lambda: True, now())
    await asyncio.sleep(1)
    assert (in_flight.age(first), in_flight.age(second)) == pytest.approx((6, 4))
    assert abs(in_flight.database_time() - (CAPTURED_AT + timedelta(seconds=6))) < timedelta(milliseconds=1)
