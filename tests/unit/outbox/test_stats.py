"""The counts that are written are the differences since the last write."""

from typing import Any

import pytest

from listener import metrics
from listener.errors import DatabaseUnavailable
from listener.outbox import stats
from listener.outbox.stats import EventStats, StatsWriter

RULE = "counted_by_this_test"
BUCKETS = len(metrics.DELIVERY_BUCKETS) + 1


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    async def run_query(pool: object, query: str, values: dict[str, Any]) -> list[Any]:
        if pool == "unavailable":
            raise DatabaseUnavailable("gone")
        calls.append(values)
        return []

    monkeypatch.setattr(stats, "run_query", run_query)
    return calls


def send(seconds: float) -> None:
    metrics.EVENTS.labels(RULE, "sent", "").inc()
    metrics.DELIVERY.labels(RULE).observe(seconds)


async def test_only_what_is_new_is_written(written: list[dict[str, Any]]) -> None:
    writer = StatsWriter(None)  # type: ignore[arg-type]
    await writer.flush()
    assert written == []
    send(0.007)
    send(0.007)
    await writer.flush()
    await writer.flush()
    [values] = written
    assert (values["rules"], values["sent"], values["failed"]) == ([RULE], [2], [0])
    assert values["delivery"] == ["{" + ",".join(["0", "2", *["0"] * (BUCKETS - 2)]) + "}"]


async def test_what_could_not_be_written_comes_with_the_next(written: list[dict[str, Any]]) -> None:
    writer = StatsWriter("unavailable")  # type: ignore[arg-type]
    send(1.0)
    await writer.flush()
    writer._pool = None  # type: ignore[assignment]
    send(1.0)
    await writer.flush()
    assert [values["sent"] for values in written] == [[2]]


def test_a_difference_of_nothing_is_false() -> None:
    one = EventStats("a", 1, 2, 3, (4, 5))
    assert not one - one
    assert one - EventStats("a", 0, 2, 3, (4, 5)) == EventStats("a", 1, 0, 0, (0, 0))
