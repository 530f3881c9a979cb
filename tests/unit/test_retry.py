"""The delays between tries."""

import asyncio

import pytest

from listener.retry import FIRST_DELAY_S, MAX_DELAY_S, backoff, wait


@pytest.mark.parametrize(
    ("attempt", "ceiling"), [(1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (1000, 3600), (10**6, 3600)]
)
def test_the_delay_doubles_up_to_the_longest(attempt: int, ceiling: float) -> None:
    delays = [backoff(attempt) for _ in range(200)]
    assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
    assert max(delays) - min(delays) > ceiling / 4


def test_the_limits_can_be_chosen() -> None:
    assert 0.05 <= backoff(1, 0.1, 1.0) <= 0.1
    assert 0.5 <= backoff(9, 0.1, 1.0) <= 1.0
    assert FIRST_DELAY_S < MAX_DELAY_S


async def test_a_wait_ends_with_the_event_or_with_its_time() -> None:
    event = asyncio.Event()
    await wait(event, 0.001)
    assert not event.is_set()
    asyncio.get_running_loop().call_soon(event.set)
    await wait(event, None)
    assert event.is_set()
