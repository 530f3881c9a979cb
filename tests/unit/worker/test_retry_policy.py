"""What a refusal makes of an event: another attempt after a while, or none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest

from listener.outbox.event import Event, Settlement
from listener.smtp.replies import Scope, Verdict
from listener.smtp.verdicts import SERVER
from listener.worker.retry_policy import RetryPolicy

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
DAY = 86_400.0
EVENT = Event(1, "rule", "1", 0, 0, NOW, 0.0, 1, False, None)
DEFERRED = Verdict(Scope.recipient, permanent=False, reason="deferred", uses_attempt=True, delay=300.0)
REJECTED = Verdict(Scope.recipient, permanent=True, reason="rejected", uses_attempt=True)
GUESS = replace(REJECTED, permanent=False, is_guess=True, delay=4.0)


def refused(policy: RetryPolicy, verdict: Verdict, *, days: float = 0.0, attempt: int = 0) -> Settlement:
    """Return the settlement of an event that was deferred for the first time so many days ago."""
    first = NOW.isoformat() if attempt else None
    event = replace(EVENT, attempt=attempt, age=days * DAY, deferred_at=first)
    with mock.patch("random.uniform", lambda _, high: high):
        return policy.refused(event, "rcpt: no", verdict)


@pytest.mark.parametrize(
    ("verdict", "state", "entry", "attempts", "delay"),
    [
        (REJECTED, "failed", "failed", True, None),
        (DEFERRED, "available", "deferred", True, 450.0),
        (replace(DEFERRED, delay=None), "available", "deferred", True, 10.0),
        (GUESS, "available", "deferred", True, 6.0),
        (SERVER, "available", "not_sent", False, 1.0),
    ],
)
def test_the_first_refusal(verdict: Verdict, state: str, entry: str, attempts: bool, delay: float | None) -> None:
    settlement = refused(RetryPolicy(), verdict)
    assert (settlement.state, settlement.history_entry, settlement.uses_attempt) == (state, entry, attempts)
    assert settlement.delay == delay
    assert settlement.reason == verdict.reason


def test_no_number_of_attempts_ends_it_but_four_days_do() -> None:
    policy = RetryPolicy()
    for verdict in (DEFERRED, GUESS):
        assert refused(policy, verdict, days=3.9, attempt=400).state == "available"
        given_up = refused(policy, verdict, days=4.1, attempt=2)
        assert (given_up.state, given_up.reason) == ("failed", verdict.reason)
        assert given_up.detail == "rcpt: no (given up after 4.1 days)"
    assert refused(policy, SERVER, days=400, attempt=2).state == "available"


def test_an_event_that_waited_for_a_daemon_gets_its_four_days() -> None:
    """The time counts from the first deferral, not from the change."""
    event = replace(EVENT, age=30 * DAY, attempt=1, deferred_at=(NOW + timedelta(days=29)).isoformat())
    assert RetryPolicy().refused(event, "no", DEFERRED).state == "available"
    assert RetryPolicy().refused(replace(event, deferred_at=None), "no", DEFERRED).state == "available"


@pytest.mark.parametrize("deferred_at", ["", "never", "5", "null", "9999-12-31T23:59:59-23:59", "2026-11-27T12:00"])
def test_a_history_that_somebody_has_edited_ends_nothing(deferred_at: str) -> None:
    event = replace(EVENT, attempt=1, age=DAY, deferred_at=deferred_at)
    assert RetryPolicy().refused(event, "no", DEFERRED).state == "available"


def test_max_attempts_bounds_what_is_no_guess() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert [refused(policy, DEFERRED, attempt=attempt).state for attempt in range(4)] == [
        "available", "available", "failed", "failed",
    ]  # fmt: skip
    assert refused(policy, DEFERRED, attempt=2).detail == "rcpt: no (attempt 3, the last)"
    assert refused(policy, GUESS, attempt=50).state == "available"
    assert refused(policy, SERVER, attempt=50).state == "available"


def test_delays_grow_to_an_hour_and_those_of_a_guess_to_a_quarter_of_one() -> None:
    short = replace(DEFERRED, delay=None)
    assert [refused(RetryPolicy(), short, attempt=n).delay for n in (0, 1, 2, 20)] == [10.0, 20.0, 40.0, 3600.0]
    assert refused(RetryPolicy(), GUESS, attempt=20).delay == 900.0
    # A full mailbox is worth waiting for days.
    assert refused(RetryPolicy(), replace(DEFERRED, delay=3600.0), attempt=20).delay == 8 * 5400.0
