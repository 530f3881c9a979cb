"""How an overview is worded and drawn."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.metrics import DELIVERY_BUCKETS
from listener.printable import duration, excerpt
from listener.status.overview import Minute, Overview, _quantile
from listener.web.render import latency, rate

MINUTE = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.none() | st.floats(1e-6, 1e6))


@given(st.lists(st.integers(0, 10**6), min_size=16, max_size=16))
def test_quantiles_lie_in_their_buckets(counts: list[int]) -> None:
    found = [_quantile(counts, share) for share in (0.5, 0.95)]
    if not any(counts):
        assert found == [None, None]
        return
    median, slow = found
    assert median is not None
    assert slow is not None
    assert 0 < median <= slow <= 2 * DELIVERY_BUCKETS[-1]


@given(st.lists(MINUTE, min_size=60, max_size=60))
def test_plots_stay_in_their_frame(minutes: list[tuple[int, int, float | None]]) -> None:
    now = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    hour = [
        Minute(now + timedelta(minutes=i), sent, 0, failed, took and took / 2, took)
        for i, (sent, failed, took) in enumerate(minutes)
    ]
    o = Overview([], [], False, [], [], [], [], hour, 0.0, now)
    for plot in (rate(o), latency(o)):
        assert len(plot.bars) == 60
        assert all(0 <= bar.low <= bar.high <= 1.0001 for bar in plot.bars)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0042, "4 ms"), (1.26, "1.3 s"), (59, "59 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 d"), (None, "–")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_what_does_not_show_is_shown() -> None:
    assert excerpt("a\u202eb\x00\x1b[31m\n\u200d") == "a\ufffdb\ufffd\ufffd[31m\ufffd\ufffd"
    assert excerpt("é日本🎉") == "é日本🎉"
    assert len(excerpt("x" * 10**6)) == 161
