"""No ring between two looks at the outbox is lost, and the worker knows why it was woken."""

import asyncio

import pytest

from listener import metrics
from listener.notify.doorbell import Doorbell
from tests.support.clock import jumping


@jumping
async def test_a_ring_before_the_wait_ends_it_at_once() -> None:
    """An event may commit while the worker still drains. A ring that only woke a sleeper would be lost."""
    bell = Doorbell()
    bell.ring("notify")
    await bell.wait()
    assert bell.is_rung


@jumping
async def test_the_reasons_are_those_since_it_was_cleared() -> None:
    bell = Doorbell()
    bell.ring("connected")
    bell.clear()
    assert (bell.is_rung, bell.reasons) == (False, set())
    asyncio.get_running_loop().call_later(1, bell.ring, "lost")
    asyncio.get_running_loop().call_later(0.5, bell.ring, "notify")
    await bell.wait()
    bell.ring("lost")
    assert bell.reasons == {"notify", "lost"}


def test_only_the_first_notification_of_a_burst_counts_as_waking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators compare the metric with the number of commits, to see whether the gate spares them rings."""
    bell = Doorbell()
    woken: list[str] = []
    monkeypatch.setattr(metrics, "woken", woken.append)
    for _ in range(3):
        bell.ring("notify")
    bell.clear()
    bell.ring("due")
    bell.clear()
    bell.ring("notify")
    assert woken == ["ring", "ring"]
