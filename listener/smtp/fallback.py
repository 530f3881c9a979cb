"""Two mail servers: the second takes over while the first one's breaker is open."""

from dataclasses import replace

from listener.smtp.breaker import Breaker
from listener.smtp.outcome import NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Phase, Scope
from listener.smtp.sending import Sending
from listener.smtp.verdicts import SERVER

# A message that may have been sent waits for the first server. It is looked at again after this time.
_WAITS = replace(SERVER, delay=15.0)
_CONCERNS_ALL = (Scope.server, Scope.configuration, Scope.quota)


class SmtpFallback:
    """Sends through `first`, and through `second` while `breaker`, the first one's, is open.

    Only messages that were certainly not sent go to the second server. Every 15 s or less, one message tries the first
    server. If that fails, the message goes to the second.
    """

    def __init__(self, first: SmtpPool, breaker: Breaker, second: SmtpPool) -> None:
        self._first = first
        self._breaker = breaker
        self._second = second

    async def send(self, sending: Sending) -> SendOutcome:
        """Send one message, as `SmtpPool.send` does. The first server may have a repeated one already."""
        if self._breaker.admit():
            outcome = await self._first.send(sending)
            if not (self._breaker.is_open and _is_certainly_not_sent(outcome)):
                return outcome
        if sending.is_repeat:
            return NotSent(Phase.connect, "the first server may have this message, so it waits for that server", _WAITS)
        return await self._second.send(sending)

    def abort(self) -> None:
        """Cut all busy connections, as `SmtpPool.abort` does."""
        self._first.abort()
        self._second.abort()

    async def close(self) -> None:
        """Close all idle connections."""
        await self._first.close()
        await self._second.close()


def _is_certainly_not_sent(outcome: SendOutcome) -> bool:
    """Return whether the outcome concerns the server, and leaves the message unsent."""
    match outcome:
        case NotSent(_, _, verdict) | Refused(_, _, verdict):
            return verdict.scope in _CONCERNS_ALL
        case NotPermitted():
            # The breaker opened while the message waited. If a stop was the reason, the second server asks again.
            return True
        case _:
            return False
