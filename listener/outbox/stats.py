"""Counts of settled events by minute and rule, kept in the database for the page and `top`.

They are taken from the metrics and added up over all daemons. The outbox itself could answer the question only with an
index that every outcome would have to update.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from listener.db.pool import Pool
from listener.db.queries import load, run_query
from listener.errors import PgheraldError
from listener.metrics import DELIVERY, EVENTS, SETTLED

QUERIES = load("stats")
# The page refreshes every second or two. A longer interval would show, a shorter one would only write more often.
_FLUSH_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class EventStats:
    """Numbers of a rule's events by outcome. `delivery`: those sent, by the bucket of `DELIVERY_BUCKETS`."""

    rule: str
    sent: int
    skipped: int
    failed: int
    delivery: tuple[int, ...]

    def __sub__(self, before: "EventStats") -> "EventStats":
        return EventStats(
            self.rule,
            self.sent - before.sent,
            self.skipped - before.skipped,
            self.failed - before.failed,
            tuple(new - old for new, old in zip(self.delivery, before.delivery, strict=True)),
        )

    def __bool__(self) -> bool:
        return any((self.sent, self.skipped, self.failed, *self.delivery))


class StatsWriter:
    """Adds this daemon's counts to ``pgherald.event_stats`` every two seconds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._written = _counted()

    async def run(self) -> None:
        """Flush periodically until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write the counts since the last flush. If the database is unavailable, the next flush includes them."""
        counted = _counted()
        news = [stats - self._written[rule] if rule in self._written else stats for rule, stats in counted.items()]
        if news := [stats for stats in news if stats]:
            with suppress(PgheraldError):
                await self._add(news)
                self._written = counted

    async def _add(self, news: list[EventStats]) -> None:
        """Add to this minute's counts."""
        values = {
            "rules": [stats.rule for stats in news],
            "sent": [stats.sent for stats in news],
            "skipped": [stats.skipped for stats in news],
            "failed": [stats.failed for stats in news],
            "delivery": ["{" + ",".join(map(str, stats.delivery)) + "}" for stats in news],
        }
        await run_query(self._pool, QUERIES["add_stats"], values)


def _counted() -> dict[str, EventStats]:
    """Return the metrics' counts by rule, since the process began."""
    counts: dict[str, dict[str, int]] = {}
    for metric in EVENTS.collect():
        for sample in metric.samples:
            states = counts.setdefault(sample.labels["rule"], dict.fromkeys(SETTLED, 0))
            if (state := sample.labels["state"]) in states:
                states[state] += int(sample.value)
    # A Prometheus histogram's buckets are cumulative: each includes the ones below.
    cumulative: dict[str, list[int]] = {}
    for metric in DELIVERY.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                cumulative.setdefault(sample.labels["rule"], []).append(int(sample.value))
    return {
        rule: EventStats(
            rule,
            **states,
            delivery=tuple(b - a for a, b in zip((0, *cumulative[rule]), cumulative[rule], strict=False)),
        )
        for rule, states in sorted(counts.items())
        if rule in cumulative
    }
