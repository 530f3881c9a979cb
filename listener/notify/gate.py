"""The gate as the leader's session closes and opens it."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from listener.db.locks import GATE, LEADER

# The worker waits no longer for the gate: behind a flood the answer may take seconds, and emails must not wait for it.
_WAIT_S = 0.5
# An application's transaction holds the gate's lock for a moment. A longer refusal is worth a look at the holder.
_REFUSED_S = 0.5


class Gate:
    """Close and open the gate, one after the other, as long as this session is the leader.

    While the gate is being opened it must not be taken for closed, so each change waits for the one before.

    `is_leader` and `closed` are as this session knows. `held_by_stranger` is as the lock watch last saw. `ask` runs a
    boolean query and returns False where no answer comes.
    """

    def __init__(self, ask: Callable[[str], Awaitable[bool]]) -> None:
        self.is_leader = False
        self.closed = False
        self.held_by_stranger = False
        self._refused_since = math.inf
        self._ask = ask
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    @property
    def is_refused(self) -> bool:
        """Return whether another session has held the lock at every try for a while."""
        return asyncio.get_running_loop().time() - self._refused_since > _REFUSED_S

    async def lead(self) -> bool:
        """Become the leader if nobody else is. Return whether this call made it so."""
        if self.is_leader:
            return False
        self.is_leader = await self._ask(f"SELECT pg_try_advisory_lock({LEADER})")
        return self.is_leader

    async def close(self) -> bool:
        """Close the gate and return whether it is closed.

        False may also mean that the answer has not come yet, or that this session is not the leader.
        """
        if not self.is_leader:
            return False
        await self._move(closed=True)
        return self.closed and self._task is None

    async def open(self) -> None:
        """Open the gate, or have it opened as soon as the server answers."""
        await self._move(closed=False)

    def lost(self) -> None:
        """Note that the session has ended, and its locks with it."""
        self.is_leader = self.closed = False

    async def _move(self, *, closed: bool) -> None:
        if self._task is None and closed == self.closed:
            return
        if self._task is None or closed != self._wanted:
            # The opposite change may still be under way. This one waits for it.
            self._task = asyncio.create_task(self._close() if closed else self._open(), name="gate")
            self._wanted = closed
        task = self._task
        await asyncio.wait({task}, timeout=_WAIT_S)
        if task.done() and task is self._task:
            self._task = None

    async def _close(self) -> None:
        async with self._turn:
            # The session may have been lost while an earlier query waited for its answer.
            if self.is_leader and not self.closed:
                self.closed = await self._ask(f"SELECT pg_try_advisory_lock({GATE})")
                now = asyncio.get_running_loop().time()
                self._refused_since = math.inf if self.closed else min(self._refused_since, now)

    async def _open(self) -> None:
        async with self._turn:
            if self.closed:
                await self._ask(f"SELECT pg_advisory_unlock({GATE})")
                self.closed = False
