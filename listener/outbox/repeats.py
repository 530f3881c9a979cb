"""Emails that a row, or a person of it, had not long ago: what `again_after` of a rule asks about claimed events.

Two events of a row may be claimed at the same time, by one worker or by two. Each asks after its own claim has been
committed, so at least one of the two sees the other, and waits. Both may see each other. They then wait for times of
random length.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from listener.db.pool import Pool
from listener.db.queries import load, run_query
from listener.outbox.event import Event, Repeat

QUERIES = load("repeats")
# Longer than most sendings take. Two events that wait for each other must not ask at the same moment again.
_MIN_WAIT_S, _MAX_WAIT_S = 0.5, 1.5
# The other event is deferred, or a person decides about it. Each look is a claim and two statements.
_LONGEST_WAIT_S = 60.0


async def noted(pool: Pool, events: Sequence[Event], again_after: float) -> list[Event]:
    """Return the claimed events of one rule, with `repeat` set where the row had an email within `again_after` seconds.

    It is also set where an email of the row may be on its way.

    Raises:
        DatabaseUnavailable: The events must be released.
    """
    values = {"ids": [event.id for event in events if event.flaw is None], "again_after": again_after}
    rows = await run_query(pool, QUERIES["repeats"], values)
    found = {number: _repeat(*row) for number, *row in rows}
    return [replace(event, repeat=found.get(event.id)) for event in events]


def _repeat(sent_at: datetime | None, in_flight: bool, wait: float, held: bool) -> Repeat:
    if sent_at is not None:
        return Repeat(sent_at)
    assert in_flight
    pause = random.uniform(_MIN_WAIT_S, _MAX_WAIT_S)  # noqa: S311 - spreads load, guards nothing
    return Repeat(None, _LONGEST_WAIT_S if held else min(max(wait, 0.0) + pause, _LONGEST_WAIT_S), is_held=held)
