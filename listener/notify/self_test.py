"""The self-test of the LISTEN connection: ring, and find out whether the ring arrives."""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable

from listener.retry import wait

# On loopback a ring arrives within a millisecond; a busy server may take a few hundred.
_TIMEOUT_S = 1.0
# Behind a flood of notifications the ring arrives late: the test goes on while something arrives, for this long at most.
_FLOODED_TIMEOUT_S = 5.0
# A daemon rings itself every 5 s, so even fifty daemons send far fewer notifications within these seconds.
_FLOOD_COUNT = 256
_FLOOD_WITHIN_S = 10.0
# A session that receives everything gets the server's locks late, so it may let only little through for a while.
_FLOOD_ENDS_S = 60.0


class SelfTest:
    """Tell whether notifications arrive, and in time.

    A connection that seems well may receive nothing, for example through a pooler. `started_at` and `passed_at` are
    times on the loop's clock. `notify` sends a payload on the channel.
    """

    def __init__(self, notify: Callable[[str], Awaitable[None]]) -> None:
        self.started_at = -math.inf
        self.passed_at = -math.inf
        self._notify = notify
        self._token = ""
        self._arrived = asyncio.Event()
        self._foreign_count = 0
        self._foreign_since = -math.inf
        self._flooded_until = -math.inf

    @property
    def is_flooded(self) -> bool:
        """Return whether so many foreign notifications arrive that rings cannot be relied on."""
        return asyncio.get_running_loop().time() <= self._flooded_until

    async def run(self, last_received: Callable[[], float]) -> bool:
        """Ring, and return whether the ring arrives. `last_received`: when the server last sent anything.

        Raises:
            DatabaseUnavailable: the ring could not be sent.
        """
        clock = asyncio.get_running_loop().time
        self.started_at = clock()
        self._token = secrets.token_hex(8)
        self._arrived.clear()
        await self._notify(self._token)
        end = clock() + _TIMEOUT_S
        longest = end + _FLOODED_TIMEOUT_S
        while not self._arrived.is_set() and (left := end - clock()) > 0:
            await wait(self._arrived, left)
            if self.is_flooded:
                end = min(last_received() + _TIMEOUT_S, longest)
        if not self._arrived.is_set():
            return False
        self.passed_at = clock()
        return True

    def receive(self, payload: str) -> bool:
        """Take the payload of a self-test, ours or another daemon's. Return whether a flood begins with it."""
        if payload == self._token:
            self._arrived.set()
            return False
        self._foreign_count += 1
        if self._foreign_count < _FLOOD_COUNT:
            return False
        now = asyncio.get_running_loop().time()
        begins = False
        if now - self._foreign_since < _FLOOD_WITHIN_S:
            begins = not self.is_flooded
            self._flooded_until = now + _FLOOD_ENDS_S
        self._foreign_count, self._foreign_since = 0, now
        return begins
