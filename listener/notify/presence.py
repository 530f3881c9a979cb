"""The advisory lock by which the other workers see that this worker's session is alive."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from listener.db.locks import PRESENCE_SPACE, AdvisoryLock

# Long enough for two looks of the lock watch at the session that holds this worker's lock.
_SUSPECT_S = 5.0


class PresenceLock:
    """One lock per worker, held by its LISTEN session until that session ends.

    `held`: this session holds it. `taken`: another session does, so this worker needs another number. `ask` runs a
    boolean query and returns None where no answer comes.
    """

    def __init__(self, ask: Callable[[str], Awaitable[bool | None]]) -> None:
        self.held = False
        self.taken = False
        self._ask = ask
        self._number: int | None = None
        self._taken_at = -math.inf

    @property
    def was_just_taken(self) -> bool:
        """Return whether another session was found to hold the lock within the last seconds."""
        return asyncio.get_running_loop().time() - self._taken_at < _SUSPECT_S

    def assign(self, number: int) -> None:
        """Hold the lock of this number from now on."""
        self._number, self.held, self.taken = number, False, False

    async def acquire(self) -> bool:
        """Try to get the lock. Return whether `held` or `taken` has changed."""
        number = self._number
        if self.held or self.taken or number is None:
            return False
        granted = await self._ask(f"SELECT pg_try_advisory_lock({AdvisoryLock(PRESENCE_SPACE, number)})")
        # The worker may have been given another number meanwhile.
        if granted is None or number != self._number:
            return False
        self.held, self.taken = granted, not granted
        if self.taken:
            self._taken_at = asyncio.get_running_loop().time()
        return True

    def lost(self) -> None:
        """Note that the session has ended, and the lock with it."""
        self.held = False
