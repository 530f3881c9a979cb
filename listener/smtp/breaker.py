"""Whether it is worth trying the mail server now."""

import asyncio
import contextlib
from collections.abc import Callable

from listener.logs import log
from listener.retry import backoff
from listener.smtp.replies import Scope

_THRESHOLD = 5
_FIRST = 1.0
_LONGEST = 15.0


class Breaker:
    """Closed, it lets everybody try. Open, nobody, until `wait()` lets one: the probe, whose fate decides.

    Opens after five failures of the server in a row, or at once over a fault in the configuration, for 1 s and then
    ever longer, up to 15 s, jittered. `clock` gives seconds; by default the running loop's.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.reason: str | None = None
        self._clock = clock
        self._failures = 0
        self._openings = 0
        self._until: float | None = None
        self._held = False
        self._probe_until: float | None = None
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Nobody may try. Ends by `wait()` or a success, not by itself."""
        return self._until is not None

    @property
    def is_probing(self) -> bool:
        """One may try, and it is not known yet what becomes of it."""
        return self._probe_until is not None

    def failed(self, scope: Scope, detail: str) -> None:
        """One try ended by the server's fault, not the message's."""
        self._failures += 1
        if self.is_open:
            # It was under way when the breaker opened, and says nothing new.
            return
        if scope is Scope.configuration or self.is_probing or self._failures >= _THRESHOLD:
            self._openings += 1
            pause = backoff(self._openings, first=_FIRST, longest=_LONGEST)
            self._open(pause, detail)
            say = log.error if scope is Scope.configuration else log.warning
            say("breaker_open", scope=scope.value, reason=detail, pause_s=round(pause, 1))

    def succeeded(self) -> None:
        """The server took a message, or refused one for the message's own sake."""
        self._failures = 0
        if self._held:
            # It was under way before the server asked for the pause.
            return
        self._openings = 0
        if self.reason is not None:
            log.info("breaker_closed", reason=self.reason)
            self._until = self._probe_until = self.reason = None
            self._change()

    def hold_open(self, seconds: float, detail: str) -> None:
        """Let nobody try for so long, whatever else happens: the server asked for it."""
        if not self._held:
            log.warning("breaker_paused", reason=detail, pause_s=seconds)
        self._open(max(seconds, self._left() if self.is_open else 0.0), detail)
        self._held = True

    async def wait(self) -> None:
        """Return when a try is allowed.

        Of those that wait while it is open, one gets through. The others wait for what becomes of that one, though no
        longer than the longest pause: it may have found nothing to do.
        """
        while (left := self._left()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        if self._until is not None or self._probe_until is not None:
            self._until, self._held = None, False
            self._probe_until = self._now() + _LONGEST
            self._change()

    def _left(self) -> float:
        """Seconds until somebody may try."""
        end = self._until if self._until is not None else self._probe_until
        return 0.0 if end is None else end - self._now()

    def _open(self, pause: float, detail: str) -> None:
        self.reason = detail
        self._until = self._now() + pause
        self._probe_until = None
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()
