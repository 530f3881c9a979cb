"""The plots of the page: 60 bars each, none of which leaves its frame."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from listener.status.overview import Minute, Overview
from listener.web.render import breakable, latency, rate

MINUTE = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.none() | st.floats(1e-6, 1e6))


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


def test_a_name_breaks_after_an_underscore_only() -> None:
    assert breakable("date_plan_<b>") == "date_<wbr>plan_<wbr>&lt;b&gt;"
