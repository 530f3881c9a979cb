"""The doorbell that wakes the worker's loop."""

import asyncio
from typing import Literal

from listener import metrics

Reason = Literal["notify", "connected", "lost", "leader", "no leader", "flood", "rescued", "due", "lookup", "stop"]


class Doorbell:
    """Wake the loop. Any number of rings before the loop clears the bell count as one.

    `reasons` holds why it rang since it was last cleared.
    """

    def __init__(self) -> None:
        self.reasons: set[Reason] = set()
        self._rung = asyncio.Event()

    @property
    def is_rung(self) -> bool:
        """Return whether it rang since it was last cleared."""
        return self._rung.is_set()

    def ring(self, reason: Reason) -> None:
        """Wake the loop now, or keep it from its next sleep."""
        if reason == "notify" and not self.is_rung:
            metrics.woken("ring")
        self.reasons.add(reason)
        self._rung.set()

    def clear(self) -> None:
        """Forget all rings. The caller must look for work after this, never before it."""
        self.reasons.clear()
        self._rung.clear()

    async def wait(self) -> None:
        """Wait until it rings."""
        await self._rung.wait()
