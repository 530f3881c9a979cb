"""Draws the consequences of an outcome: for the message, for the breaker and for the metrics."""

import re
from dataclasses import replace

from listener import metrics
from listener.smtp.breaker import Breaker
from listener.smtp.fault_finder import SEVERAL, FaultFinder
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome, describe
from listener.smtp.replies import Phase, Scope, Verdict
from listener.smtp.sending import Sending

# The pause for a used-up quota if the verdict has no delay of its own.
_QUOTA_PAUSE_S = 600.0


class Judge:
    """Judges the outcomes of one pool, one after the other."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._faults = FaultFinder()

    @property
    def is_guessing(self) -> bool:
        """Return whether a refusal may concern everybody. The next messages then go one at a time."""
        return self._faults.is_guessing

    def judge(self, outcome: SendOutcome, sending: Sending) -> SendOutcome:
        """Return the outcome with the verdict in the light of those of other messages, and report it to the breaker."""
        outcome = self._in_context(outcome, sending)
        self._report(outcome)
        _count(outcome)
        return outcome

    def _in_context(self, outcome: SendOutcome, sending: Sending) -> SendOutcome:
        message_id, recipient = sending.message_id, sending.recipient
        match outcome:
            case Accepted():
                self._faults.accepted(message_id)
            case Refused(phase, reply, verdict):
                return replace(outcome, verdict=self._faults.judge(message_id, recipient, phase, reply, verdict))
            case NotSent(phase, detail, verdict):
                return replace(outcome, verdict=self._faults.judge(message_id, recipient, phase, detail, verdict))
        return outcome

    def _report(self, outcome: SendOutcome) -> None:
        """Report the outcome to the breaker."""
        match outcome:
            case Accepted():
                self._breaker.succeeded()
            case Refused(_, _, verdict) | NotSent(_, _, verdict):
                self._report_failure(verdict, describe(outcome))
            case InDoubt(detail):
                self._breaker.failed(Scope.server, detail)
            case NotPermitted():
                pass

    def _report_failure(self, verdict: Verdict, detail: str) -> None:
        if verdict.is_shared:
            detail += f"; {SEVERAL} recipients got this reply with no other message accepted in between"
        if verdict.scope is Scope.quota:
            self._breaker.pause(verdict.delay or _QUOTA_PAUSE_S, detail)
        elif verdict.scope in (Scope.server, Scope.configuration, Scope.stale, Scope.capability):
            self._breaker.failed(verdict.scope, detail, at_once=verdict.is_shared)
        else:
            # The server works: it refused this message for its own sake, or asked for a lower rate. The rate limit
            # handles the latter.
            self._breaker.succeeded()


def _count(outcome: SendOutcome) -> None:
    match outcome:
        case Accepted(reply):
            metrics.replied(Phase.dot, reply.code)
        case Refused(phase, reply, _):
            metrics.replied(phase, reply.code)
        case NotSent(phase, detail, _):
            # If opening the session failed, the server's reply is only in the text.
            code = re.match(r"[2-5]\d\d ", detail)
            metrics.replied(phase, int(code[0]) if code else None)
        case InDoubt():
            metrics.replied(Phase.dot, None)
