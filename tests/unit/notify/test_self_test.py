"""The self-test passes only if the ring comes back, and a flood is noticed once."""

import asyncio
import math
from collections.abc import Callable

import pytest

from listener.errors import DatabaseUnavailable
from listener.notify import self_test as module
from listener.notify.self_test import SelfTest
from tests.support.clock import jumping, now


class Channel:
    """Brings each payload back after `delay` seconds, if it brings it at all."""

    def __init__(self, delay: float = math.inf) -> None:
        self.delay = delay
        self.sent: list[str] = []
        self.test = SelfTest(self.notify)

    async def notify(self, payload: str) -> None:
        self.sent.append(payload)
        if self.delay < math.inf:
            asyncio.get_running_loop().call_later(self.delay, self.test.receive, payload)


def silence() -> float:
    return 0.0


def foreign(test: SelfTest, count: int = module._FLOOD_COUNT) -> list[bool]:
    """Receive `count` notifications of others. Return for each whether a flood began with it."""
    return [test.receive(f"foreign {number}") for number in range(count)]


def flood(test: SelfTest) -> None:
    foreign(test, 2 * module._FLOOD_COUNT)


@pytest.mark.parametrize(
    ("delay", "passed", "ends_at"), [(0.01, True, 0.01), (0.9, True, 0.9), (1.1, False, 1.0), (math.inf, False, 1.0)]
)
@jumping
async def test_it_passes_when_the_ring_arrives_in_time(delay: float, passed: bool, ends_at: float) -> None:
    """If it passed without a ring, a daemon behind a pooler would sleep through every commit."""
    test = Channel(delay).test
    assert await test.run(silence) is passed
    assert now() == pytest.approx(ends_at)
    assert (test.started_at, test.passed_at) == (0.0, now() if passed else -math.inf)


@jumping
async def test_a_ring_that_was_sent_before_does_not_count() -> None:
    """It may come late from a connection that receives nothing any more."""
    channel = Channel()
    assert not await channel.test.run(silence)
    asyncio.get_running_loop().call_later(0.1, channel.test.receive, channel.sent[0])
    assert not await channel.test.run(silence)
    assert channel.sent[0] != channel.sent[1]


@jumping
async def test_a_connection_that_stops_to_receive_fails_the_next_test() -> None:
    channel = Channel(0.01)
    assert await channel.test.run(silence)
    passed_at = now()
    channel.delay = math.inf
    assert not await channel.test.run(silence)
    assert channel.test.passed_at == passed_at


@jumping
async def test_a_ring_that_cannot_be_sent_is_an_outage_and_no_failed_test() -> None:
    async def notify(payload: str) -> None:
        raise DatabaseUnavailable("down")

    with pytest.raises(DatabaseUnavailable):
        await SelfTest(notify).run(silence)


@jumping
async def test_a_flood_begins_once() -> None:
    """A worker that sleeps until it is rung begins to poll then. Waking it with each payload would load it for nothing."""
    test = Channel().test
    began = foreign(test, 10 * module._FLOOD_COUNT)
    assert began.count(True) == 1
    assert test.is_flooded


@jumping
async def test_a_flood_ends_a_while_after_its_last_notification() -> None:
    test = Channel().test
    flood(test)
    await asyncio.sleep(50)
    flood(test)
    await asyncio.sleep(50)
    assert test.is_flooded
    await asyncio.sleep(11)
    assert not test.is_flooded


@jumping
async def test_the_tests_of_fifty_daemons_are_no_flood() -> None:
    test = Channel().test
    for _ in range(20):
        assert not any(foreign(test, 50))
        await asyncio.sleep(5)
    assert not test.is_flooded


@pytest.mark.parametrize(
    ("received", "delay", "passed", "ends_at"),
    [
        (silence, 3.0, False, 1.0),
        (lambda: now(), 3.0, True, 3.0),
        (lambda: now(), math.inf, False, 6.0),
        (lambda: min(now(), 2.0), math.inf, False, 3.0),
    ],
    ids=["nothing arrives", "the ring is late", "no ring", "nothing more arrives"],
)
@jumping
async def test_behind_a_flood_it_waits_while_something_arrives(
    received: Callable[[], float], delay: float, passed: bool, ends_at: float
) -> None:
    """The ring stands in the queue behind the flood. A test that gave up sooner would call the connection dead."""
    test = Channel(delay).test
    flood(test)
    assert await test.run(received) is passed
    assert now() == pytest.approx(ends_at)
