"""The other workers: they are rung for a backlog, and the loss of their leader wakes this one."""

import asyncio

import pytest

from listener.errors import DatabaseUnavailable
from listener.notify.doorbell import Doorbell
from listener.notify.peers import RING_INTERVAL_S, Peers
from tests.support.clock import jumping, now


class Channel:
    """Notes when something is sent on the channel, and what."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str]] = []
        self.is_down = False

    async def notify(self, payload: str) -> None:
        if self.is_down:
            raise DatabaseUnavailable("down")
        self.sent.append((round(now(), 3), payload))


@pytest.mark.parametrize(
    ("before", "after", "rings"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
@jumping
async def test_only_the_loss_of_the_leader_rings(before: bool, after: bool, rings: bool) -> None:
    """Without a leader no commit rings. A worker that sleeps until it is rung would sleep until its next poll."""
    bell = Doorbell()
    peers = Peers(Channel().notify, bell)
    peers.update(1, have_leader=before)
    bell.clear()
    peers.update(1, have_leader=after)
    assert bell.reasons == ({"no leader"} if rings else set())
    assert peers.have_leader is after


@jumping
async def test_a_backlog_rings_ten_times_a_second_at_most() -> None:
    """Each ring makes every other daemon claim, so one a claim would load the database for nothing."""
    channel = Channel()
    peers = Peers(channel.notify, Doorbell())
    peers.update(2, have_leader=False)
    await asyncio.sleep(1)
    for _ in range(100):
        await peers.ring()
        await asyncio.sleep(RING_INTERVAL_S / 20)
    assert len(channel.sent) == 5
    assert {payload for _, payload in channel.sent} == {""}


@jumping
async def test_a_single_worker_rings_nobody() -> None:
    channel = Channel()
    peers = Peers(channel.notify, Doorbell())
    peers.update(0, have_leader=False)
    await peers.ring()
    assert channel.sent == []


@jumping
async def test_a_ring_that_cannot_be_sent_is_an_outage() -> None:
    """The worker's loop must see it, because it is the first to pause in an outage."""
    channel = Channel()
    peers = Peers(channel.notify, Doorbell())
    peers.update(1, have_leader=False)
    channel.is_down = True
    with pytest.raises(DatabaseUnavailable):
        await peers.ring()
