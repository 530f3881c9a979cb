"""The counters of the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from listener import metrics
from listener.metrics import DELIVERY_BUCKETS, quantile


def value(line: str) -> float | None:
    """Return the value of a sample, or None if `/metrics` does not have it."""
    for sample in generate_latest(metrics.REGISTRY).decode().splitlines():
        if sample.rpartition(" ")[0] == line:
            return float(sample.rpartition(" ")[2])
    return None


def test_a_known_rule_starts_at_zero() -> None:
    metrics.known("counted")
    for state in metrics.SETTLED:
        assert value(f'pgherald_events_total{{reason="",rule="counted",state="{state}"}}') == 0
    assert value('pgherald_delivery_seconds_count{rule="counted"}') == 0


def test_an_outcome_is_counted_by_rule_state_and_reason() -> None:
    line = 'pgherald_events_total{reason="no_consent",rule="outcomes",state="skipped"}'
    assert value(line) is None
    metrics.settled("outcomes", "skipped", "no_consent")
    metrics.settled("outcomes", "skipped", "no_consent")
    metrics.settled("outcomes", "sent", None)
    assert value(line) == 2
    assert value('pgherald_events_total{reason="",rule="outcomes",state="sent"}') == 1


@pytest.mark.parametrize(("code", "group"), [(250, "2xx"), (451, "4xx"), (550, "5xx"), (None, "none")])
def test_a_reply_is_counted_by_its_class(code: int | None, group: str) -> None:
    line = f'pgherald_smtp_replies_total{{class="{group}",phase="test"}}'
    before = value(line) or 0
    metrics.replied("test", code)
    assert value(line) == before + 1


@pytest.mark.parametrize("source", ["ring", "poll", "gate"])
def test_a_wakeup_is_counted_by_its_source(source: str) -> None:
    line = f'pgherald_wakeups_total{{source="{source}"}}'
    before = value(line) or 0
    metrics.woken(source)
    assert value(line) == before + 1


def test_a_delivery_is_in_the_bucket_of_its_time() -> None:
    metrics.accepted("timed", 0.3)
    assert value('pgherald_delivery_seconds_bucket{le="0.25",rule="timed"}') == 0
    assert value('pgherald_delivery_seconds_bucket{le="0.5",rule="timed"}') == 1


@given(st.lists(st.integers(0, 10**6), min_size=16, max_size=16))
def test_quantiles_lie_in_their_buckets(counts: list[int]) -> None:
    found = [quantile(counts, share) for share in (0.5, 0.95)]
    if not any(counts):
        assert found == [None, None]
        return
    median, slow = found
    assert median is not None
    assert slow is not None
    assert 0 < median <= slow <= 2 * DELIVERY_BUCKETS[-1]
