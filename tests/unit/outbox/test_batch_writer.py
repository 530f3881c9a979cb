"""Who is told that what he asked for is written."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from listener.address import parse_address
from listener.errors import DatabaseUnavailable
from listener.metrics import REGISTRY
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.event import Event, OutgoingMessage, Settlement

JANE = parse_address("jane@example.org")
EVENT = Event(7, "dateplan_verified", "1", 0, 0, datetime.now(UTC), 0.0, 40, False, None)


class OnlyTheNewClaim:
    """An outbox in which the event is held under claim 41."""

    async def record(
        self, settlements: Iterable[Settlement], marks: Iterable[OutgoingMessage], *, again: bool = False
    ) -> set[tuple[int, int]]:
        return {(7, 41)}


async def test_one_event_in_hand_under_two_claims_is_sent_under_one() -> None:
    batch_writer = BatchWriter(OnlyTheNewClaim())  # type: ignore[arg-type]
    old, new = (batch_writer.mark(OutgoingMessage(replace(EVENT, claim=claim), JANE, b"", "id")) for claim in (40, 41))
    lost = batch_writer.settle(Settlement(EVENT, "sent"))
    running = asyncio.create_task(batch_writer.run())
    assert await asyncio.gather(old, new, lost) == [False, True, False]
    running.cancel()


class AwayAtFirst:
    """An outbox whose database answers from the second try on; notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def record(
        self, settlements: list[Settlement], marks: list[OutgoingMessage], *, again: bool = False
    ) -> set[tuple[int, int]]:
        self.asked.append((len(settlements), len(marks)))
        if len(self.asked) == 1:
            raise DatabaseUnavailable("away")
        return {(7, 40)}

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_after_a_mark_that_failed_nothing_is_left_to_write() -> None:
    outbox = AwayAtFirst()
    batch_writer = BatchWriter(outbox)  # type: ignore[arg-type]
    running = asyncio.create_task(batch_writer.run())
    assert not await batch_writer.mark(OutgoingMessage(EVENT, JANE, b"", "id"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert await batch_writer.mark(OutgoingMessage(EVENT, JANE, b"", "id"))
    assert await batch_writer.settle(Settlement(EVENT, "sent"))
    assert outbox.asked == [(0, 1), (0, 1), (1, 0)]
    running.cancel()


async def test_what_waits_to_be_written_is_a_metric() -> None:
    batch_writer = BatchWriter(OnlyTheNewClaim())  # type: ignore[arg-type]
    waiting = [batch_writer.settle(Settlement(EVENT, "sent")) for _ in range(2)]
    assert REGISTRY.get_sample_value("pgherald_unwritten_outcomes") == 2
    running = asyncio.create_task(batch_writer.run())
    await asyncio.gather(*waiting)
    running.cancel()
    assert REGISTRY.get_sample_value("pgherald_unwritten_outcomes") == 0
