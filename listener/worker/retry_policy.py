"""Decides whether an event whose message was refused is tried again, and when."""

import random
from dataclasses import dataclass

from listener.outbox.event import Event, Settlement
from listener.retry import FIRST_DELAY_S, MAX_DELAY_S, backoff
from listener.smtp.replies import Verdict

# A refusal that may concern everybody is over when somebody has corrected its cause.
_MAX_GUESS_DELAY_S = 900.0
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long an event is tried.

    Attributes:
        give_up_after: Seconds from its first deferral.
        max_attempts: None stands for no limit.
    """

    give_up_after: float = 4 * _DAY_S
    max_attempts: int | None = None

    def refused(self, event: Event, detail: str, verdict: Verdict) -> Settlement:
        """Return what to write about an event whose message was certainly not sent."""
        if verdict.permanent:
            return Settlement(event, "failed", "failed", verdict.reason, detail, uses_attempt=verdict.uses_attempt)
        if verdict.uses_attempt:
            return self.defer(event, verdict.reason, detail, verdict.delay, is_guess=verdict.is_guess)
        # Not this message's fault, so no attempt is used. Retry after the server's delay plus jitter, behind other events
        # in case the message is the cause after all.
        jitter = random.uniform(1.0, 1.5)  # noqa: S311 - spreads load, guards nothing
        delay = jitter * (verdict.delay or 2 / 3)
        return Settlement(event, "available", "not_sent", verdict.reason, detail, delay=delay)

    def defer(
        self, event: Event, reason: str, detail: str, delay: float | None = None, *, is_guess: bool = False
    ) -> Settlement:
        """Return what to write about an event that used an attempt: it waits for the next one, or fails after the last.

        `delay`: seconds that the reply suggests. `is_guess`: the cause may lie elsewhere, so no number of attempts fails
        the event.
        """
        attempt = event.attempt + 1
        is_last = self.max_attempts is not None and attempt >= self.max_attempts and not is_guess
        if is_last or event.deferred_for > self.give_up_after:
            ending = (
                f"attempt {attempt}, the last" if is_last else f"given up after {event.deferred_for / _DAY_S:.1f} days"
            )
            return Settlement(event, "failed", "failed", reason, f"{detail} ({ending})", uses_attempt=True)
        # A full mailbox is worth waiting for days.
        first = 1.5 * delay if delay is not None else FIRST_DELAY_S
        pause = backoff(attempt, first, longest=_MAX_GUESS_DELAY_S if is_guess else max(MAX_DELAY_S, 8 * first))
        return Settlement(event, "available", "deferred", reason, detail, uses_attempt=True, delay=pause)
