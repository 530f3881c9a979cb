"""What was settled, minute by minute, kept in the database for the page and `top`: a row a minute and rule.

Taken from what is counted anyway, and added up over all daemons. The outbox itself could only say it by an index that
every outcome would pay for.
"""

import asyncio
from contextlib import suppress

from listener.errors import PgheraldError
from listener.metrics import DELIVERY, EVENTS, SETTLED
from listener.outbox.store import EventStats, Outbox

_FLUSH_INTERVAL_S = 2.0


class StatsWriter:
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._written = _counted()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what has come since the last time. When the database is away, with the next."""
        counted = _counted()
        news = [tally - self._written[rule] if rule in self._written else tally for rule, tally in counted.items()]
        if news := [tally for tally in news if tally]:
            with suppress(PgheraldError):
                await self._outbox.add_stats(news)
                self._written = counted


def _counted() -> dict[str, EventStats]:
    """By rule, since the process began."""
    counts: dict[str, dict[str, int]] = {}
    for metric in EVENTS.collect():
        for sample in metric.samples:
            states = counts.setdefault(sample.labels["rule"], dict.fromkeys(SETTLED, 0))
            if (state := sample.labels["state"]) in states:
                states[state] += int(sample.value)
    upto: dict[str, list[int]] = {}
    for metric in DELIVERY.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                upto.setdefault(sample.labels["rule"], []).append(int(sample.value))
    return {
        rule: EventStats(
            rule, **states, delivery=tuple(b - a for a, b in zip((0, *upto[rule]), upto[rule], strict=False))
        )
        for rule, states in sorted(counts.items())
        if rule in upto
    }
