"""Who is told that what he asked for is written."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from listener.outbox import Event, Mark, Settlement
from listener.recorder import Recorder

EVENT = Event(7, "dateplan_verified", "1", 0, 0, datetime.now(UTC), 0.0, 40, None, None, None)


class OnlyTheNewClaim:
    """An outbox in which the event is held under claim 41."""

    async def record(
        self, settlements: Iterable[Settlement], marks: Iterable[Mark], *, again: bool = False
    ) -> set[tuple[int, int]]:
        return {(7, 41)}


async def test_one_event_in_hand_under_two_claims_is_sent_under_one() -> None:
    recorder = Recorder(OnlyTheNewClaim())  # type: ignore[arg-type]
    old, new = (recorder.mark(Mark(replace(EVENT, claim=claim), "a@example.org", b"")) for claim in (40, 41))
    lost = recorder.settle(Settlement(EVENT, "sent"))
    running = asyncio.create_task(recorder.run())
    assert await asyncio.gather(old, new, lost) == [False, True, False]
    running.cancel()
