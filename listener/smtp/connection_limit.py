"""How many connections to the mail server may be open: as many as configured, or fewer if the server allows fewer."""

import asyncio
from collections import deque
from types import TracebackType

from listener.logs import log

# The server may allow more later. Asking once a minute costs it one refused connection.
_RAISE_INTERVAL_S = 60.0


class ConnectionLimit:
    """``async with limit`` waits until one more connection may be used.

    `size` is the configured number, and `now` the number at this time. A refused connection lowers it, and it is raised
    by one a minute.
    """

    def __init__(self, size: int) -> None:
        self.size = self.now = size
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        while self._used >= self.now:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()
                raise
        self._used += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._used -= 1
        self._wake()

    def lower(self, reason: str) -> bool:
        """Allow only as many connections as the others that are used now. Return False if there is no other.

        Call it inside the block of the connection that was refused.
        """
        others = min(self._used, self.now) - 1
        if others < 1:
            return False
        if self.now == self.size:
            log.warning("smtp_connections_lowered", allowed=others, configured=self.size, reason=reason)
        self.now = others
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_RAISE_INTERVAL_S, self._raise)
        return True

    def close(self) -> None:
        """Stop raising the limit."""
        if self._timer is not None:
            self._timer.cancel()

    def _raise(self) -> None:
        self._timer = None
        self.now += 1
        if self.now < self.size:
            self._timer = asyncio.get_running_loop().call_later(_RAISE_INTERVAL_S, self._raise)
        else:
            log.info("smtp_connections_restored", configured=self.size)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
