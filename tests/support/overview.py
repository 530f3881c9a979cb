"""Overviews without a database."""

from datetime import UTC, datetime, timedelta

from listener.status.overview import MINUTES, Minute, Overview, RuleState

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)


def overview(available: int = 0) -> Overview:
    """An idle system with one rule, of which `available` events wait."""
    minutes = [Minute(NOW - timedelta(minutes=i), 0, 0, 0, None, None) for i in reversed(range(MINUTES))]
    rule = RuleState("paid", available, 12.0 if available else None, 0, None, None, None, 0, 0)
    return Overview([rule], [], True, [], [], [], [], minutes, 0.0, NOW)


class FixedOverviews:
    """Stands for an `OverviewCache`: `current` is what every reader gets, and `last` the one before an outage."""

    def __init__(self, current: Overview | None) -> None:
        self.current = current
        self.last: Overview | None = None
        self.error: str | None = None

    @property
    def latest(self) -> Overview | None:
        return self.last or self.current

    async def get(self, wait: float, *, fresh: float, stale: float) -> Overview | None:
        return self.current

    async def close(self) -> None:
        pass
