"""The other workers of the same database."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from listener.notify.doorbell import Doorbell

# A backlog is worth one NOTIFY in a while: each ring makes every other daemon claim once.
RING_INTERVAL_S = 0.1


class Peers:
    """How many other workers there are, and whether one of them is the leader.

    `count` and `have_leader` are as the lease last saw them. `notify` sends a payload on the channel.
    """

    def __init__(self, notify: Callable[[str], Awaitable[None]], doorbell: Doorbell) -> None:
        self.count = 0
        self.have_leader = False
        self._notify = notify
        self._doorbell = doorbell
        self._rang_at = -math.inf

    def update(self, count: int, *, have_leader: bool) -> None:
        """Note what the lease has seen. Without a leader no transaction rings, so the worker must not sleep on."""
        if self.have_leader and not have_leader:
            self._doorbell.ring("no leader")
        self.count, self.have_leader = count, have_leader

    async def ring(self) -> None:
        """Wake the other workers, at most once every `RING_INTERVAL_S`.

        Raises:
            DatabaseUnavailable: the NOTIFY could not be sent.
        """
        now = asyncio.get_running_loop().time()
        if self.count and now - self._rang_at > RING_INTERVAL_S:
            self._rang_at = now
            await self._notify("")
