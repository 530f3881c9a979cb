"""The quantiles of the delivery time, from counts per bucket."""

from hypothesis import given
from hypothesis import strategies as st

from listener.metrics import DELIVERY_BUCKETS
from listener.status.overview import _quantile


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
