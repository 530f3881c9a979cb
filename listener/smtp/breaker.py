"""The circuit breaker: it stops all sending while the mail server fails."""

import asyncio
import contextlib
from collections.abc import Callable

from listener.logs import log
from listener.retry import backoff
from listener.smtp.replies import Scope

# One lost connection says little about the server; five in a row, over several connections, are an outage.
_MAX_FAILURES = 5
_FIRST_PAUSE_S = 1.0
# An outage that ends is noticed within this time. A probe every 15 s is no load for any server.
_MAX_PAUSE_S = 15.0


class Breaker:
    """Circuit breaker with a half-open state: after the pause one probe is let through.

    The probe's result closes or reopens the breaker. It opens after five failures of the server in a row. It opens
    at once for an error in the configuration, and for one that several recipients met. The first pause is 1 s. Each
    further pause is longer, up to 15 s, with jitter.

    `clock` returns seconds and defaults to the running loop's clock. `bypassed` is the breaker of a first server, if this
    is the one of its fallback.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.bypassed: Breaker | None = None
        self._reason: str | None = None
        self._clock = clock
        self._failures = 0
        self._openings = 0
        self._open_until: float | None = None
        self._paused = False
        self._probe_until: float | None = None
        self._changed = asyncio.Event()

    @property
    def reason(self) -> str | None:
        """Return the error that opened the breaker. It stays until a message gets through; None: the breaker is closed."""
        if self._reason is None and self.bypassed is not None and self.bypassed.reason is not None:
            return f"{self.bypassed.reason}; messages go through [smtp] fallback_url"
        return self._reason

    @property
    def is_open(self) -> bool:
        """Return whether nothing may be sent. Only `wait()` or a success ends this state, never time alone."""
        return self._open_until is not None

    @property
    def is_probing(self) -> bool:
        """Return whether one probe was let through and its result is not known yet."""
        return self._probe_until is not None

    def failed(self, scope: Scope, detail: str, *, at_once: bool = False) -> None:
        """Record a failure that the server or the configuration caused, not the message.

        `at_once`: the failure is known to concern every message.
        """
        self._failures += 1
        if self.is_open:
            # This message was already in flight when the breaker opened. It must not lengthen the pause.
            return
        if at_once or scope is Scope.configuration or self.is_probing or self._failures >= _MAX_FAILURES:
            self._openings += 1
            pause = backoff(self._openings, first=_FIRST_PAUSE_S, longest=_MAX_PAUSE_S)
            self._open(pause, detail)
            write = log.error if scope is Scope.configuration else log.warning
            write("breaker_open", scope=scope.value, reason=detail, pause_s=round(pause, 1))

    def succeeded(self) -> None:
        """Record that the server works: it took a message, or refused one for the message's own sake."""
        self._failures = 0
        if self._paused:
            # This message was already in flight when the server asked for the pause. The pause stays.
            return
        self._openings = 0
        if self._reason is not None:
            log.info("breaker_closed", reason=self._reason)
            self._open_until = self._probe_until = self._reason = None
            self._notify_waiters()

    def pause(self, seconds: float, detail: str, scope: Scope = Scope.quota) -> None:
        """Open the breaker for `seconds`: the server asked for it, or refused the login.

        No success ends this pause early. `retry_now` does.
        """
        if not self._paused:
            write = log.error if scope is Scope.configuration else log.warning
            write("breaker_paused", scope=scope.value, reason=detail, pause_s=seconds)
        self._open(max(seconds, self._remaining() if self.is_open else 0.0), detail)
        self._paused = True

    def retry_now(self) -> None:
        """End the pause of an open breaker: the next message is let through as a probe. An operator asks for it."""
        if self.bypassed is not None:
            self.bypassed.retry_now()
        if self._open_until is not None:
            self._open_until = self._now()
            self._notify_waiters()

    def admit(self) -> bool:
        """Return whether a message may be sent now. If the breaker was open and its pause is over, it is the probe."""
        if self._remaining() > 0:
            return False
        if self._open_until is not None or self._probe_until is not None:
            self._open_until, self._paused = None, False
            self._probe_until = self._now() + _MAX_PAUSE_S
            self._notify_waiters()
        return True

    async def wait(self) -> None:
        """Wait until a message may be sent.

        Of several tasks that wait, one gets through as the probe. The others wait for its result, but at most the
        longest pause: the probe may have found nothing to send.
        """
        while (remaining := self._remaining()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
        self.admit()

    def _remaining(self) -> float:
        """Return the seconds until the next message may be sent. Zero or less means now."""
        end = self._open_until if self._open_until is not None else self._probe_until
        return 0.0 if end is None else end - self._now()

    def _open(self, pause: float, detail: str) -> None:
        self._reason = detail
        self._open_until = self._now() + pause
        self._probe_until = None
        self._notify_waiters()

    def _notify_waiters(self) -> None:
        # Waiting tasks hold the old event. A new one lets them wait again, for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()
