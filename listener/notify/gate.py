"""The gate as the leader's session works it: closed while the daemon sleeps, and then only."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from listener.db.locks import GATE

# The worker waits no longer for it: behind a flood the answer may take seconds, and the mails must not.
_WAIT_S = 0.5


class Gate:
    """Closes and opens, one after the other: who asks while it is being opened must not take it for closed.

    `ask` runs a query whose answer is yes or no, no where there is none. `may_close`: whether this session leads, which it may
    cease to while an earlier query waits for its answer. `closed`: as this session knows. `refused_since`: on the loop's clock,
    since when another session has held the lock at every try; infinite if none has.
    """

    def __init__(self, ask: Callable[[str], Awaitable[bool]], may_close: Callable[[], bool]) -> None:
        self.closed = False
        self.refused_since = math.inf
        self._ask = ask
        self._may_close = may_close
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    async def close(self) -> bool:
        """Return whether it is closed. No may also mean that the answer has not come yet: ask again."""
        await self._move(closed=True)
        return self.closed and self._task is None

    async def open(self) -> None:
        """Open it, or have it opened as soon as the server answers."""
        await self._move(closed=False)

    def lost(self) -> None:
        """Note that the session is gone, and the lock with it."""
        self.closed = False

    async def _move(self, *, closed: bool) -> None:
        if self._task is None and closed == self.closed:
            return
        if self._task is None or closed != self._wanted:
            # Behind what is under way, if that is the opposite.
            self._task = asyncio.create_task(self._close() if closed else self._open())
            self._wanted = closed
        task = self._task
        await asyncio.wait({task}, timeout=_WAIT_S)
        if task.done() and task is self._task:
            self._task = None

    async def _close(self) -> None:
        async with self._turn:
            if self._may_close() and not self.closed:
                self.closed = await self._ask(f"SELECT pg_try_advisory_lock({GATE})")
                now = asyncio.get_running_loop().time()
                self.refused_since = math.inf if self.closed else min(self.refused_since, now)

    async def _open(self) -> None:
        async with self._turn:
            if self.closed:
                await self._ask(f"SELECT pg_advisory_unlock({GATE})")
                self.closed = False
