"""Whose fault a refusal is, by the replies to other messages."""

import asyncio
from dataclasses import replace

import pytest

from listener.address import parse_address
from listener.smtp import fault_finder as module
from listener.smtp.fault_finder import SEVERAL, FaultFinder
from listener.smtp.replies import Phase, Reply, Scope, Verdict
from listener.smtp.verdicts import SERVER, classify

POLICY = "550 5.7.1 {}: policy 4711 of 12:30"


class Pool:
    """What the pool says to the finder."""

    def __init__(self) -> None:
        self.finder = FaultFinder()

    def refused(self, number: int, text: str = POLICY, phase: Phase = Phase.rcpt) -> Verdict:
        recipient = parse_address(f"user{number}@example{number}.org")
        reply = Reply.parse([text.format(f"<{recipient}>").encode()])
        verdict = classify(phase, reply, reused=False)
        return self.finder.judge(f"id{number}", recipient, phase, reply, verdict)

    def accepted(self, number: int = 99) -> None:
        self.finder.accepted(f"id{number}")


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_the_same_refusal_of_several_recipients_concerns_all_messages(pool: Pool) -> None:
    """A permanent refusal fails no event before that is known."""
    for number in range(1, SEVERAL):
        verdict = pool.refused(number)
        assert (verdict.permanent, verdict.is_guess, verdict.scope) == (False, True, Scope.recipient)
        assert pool.finder.is_guessing
    for number in range(SEVERAL, 10):
        verdict = pool.refused(number)
        assert (verdict.scope, verdict.is_shared, verdict.uses_attempt) == (Scope.configuration, True, False)
        assert not pool.finder.is_guessing
    pool.accepted()
    assert pool.refused(1).permanent
    assert pool.refused(20).is_guess


def test_one_recipient_alone_is_never_several(pool: Pool) -> None:
    for _ in range(10):
        assert pool.refused(1).is_guess


def test_an_acceptance_ends_the_guess_and_the_same_refusal_again_is_the_messages_own(pool: Pool) -> None:
    assert pool.refused(1).is_guess
    pool.accepted()
    assert not pool.finder.is_guessing
    assert (pool.refused(1).permanent, pool.refused(1).is_guess) == (True, True)
    assert pool.refused(2).is_guess


def test_another_refusal_of_the_same_message_is_a_new_guess(pool: Pool) -> None:
    """Its first refusal was its own. The second has another cause, perhaps the account."""
    assert pool.refused(1).is_guess
    pool.accepted()
    assert pool.refused(1, "550 5.7.1 account closed").is_guess


def test_dead_addresses_count_for_nothing(pool: Pool) -> None:
    for number in range(1, 10):
        verdict = pool.refused(number, "550 5.1.1 {}: no such user")
        assert (verdict.permanent, verdict.reason) == (True, "bad_address")
        assert not pool.finder.is_guessing


def test_different_texts_are_counted_apart(pool: Pool) -> None:
    for number, text in enumerate(["550 5.7.1 spam", "550 5.7.1 blocked", "554 5.7.1 spam", "550 5.7.0 spam"], 1):
        assert pool.refused(number, text).is_guess
    assert pool.refused(5, "550 5.7.1 spam", Phase.dot).is_guess


@pytest.mark.parametrize(
    "text",
    [
        "550 5.7.1 {} is blocked",
        "550 5.7.1 [192.0.2.{n}] listed, see https://example.org/?id={n} d2e1a7{n}-gsmtp",
        "550 rejected for user{n} at {n}:15 (queue id 4bX{n}z)",
        "550 Domain example{n}.org: not accepted",
        "550 5.7.1 refused by mx{n}.example.net, gateway-{w}.example.net [hZ{w}QqLm.{w}]",
        "550 5.7.1 refused, see https://example.org/a,{w};b=({w}) [xN{w}bqPbq]",
    ],
)
def test_what_differs_with_recipient_time_and_ids_makes_no_other_text(pool: Pool, text: str) -> None:
    for number in range(1, SEVERAL):
        assert pool.refused(number, text.replace("{n}", str(number)).replace("{w}", "ab" * number)).is_guess
    assert pool.refused(SEVERAL, text.replace("{n}", str(SEVERAL)).replace("{w}", "ab" * SEVERAL)).is_shared


def test_a_temporary_refusal_of_several_recipients_is_the_servers(pool: Pool) -> None:
    text = "451 4.7.1 Service unavailable - try again later"
    for number in range(1, SEVERAL):
        deferred = pool.refused(number, text, Phase.dot)
        # With max_attempts = 1, this refusal would otherwise fail the event.
        assert (deferred.uses_attempt, deferred.is_guess, deferred.delay) == (True, True, None)
    verdict = pool.refused(SEVERAL, text, Phase.dot)
    assert (verdict.scope, verdict.uses_attempt) == (Scope.server, False)


@pytest.mark.parametrize(
    "text", ["421 4.3.0 closing", "550 The from address does not match a verified Sender Identity"]
)
def test_a_failure_of_the_server_that_meets_one_message_only_is_its_own(pool: Pool, text: str) -> None:
    """For example a message on which the server's content filter crashes."""
    first = pool.refused(1, text, Phase.dot)
    assert not first.uses_attempt
    assert pool.refused(1, text, Phase.dot) == first
    pool.accepted()
    own = pool.refused(1, text, Phase.dot)
    assert (own.scope, own.uses_attempt, own.permanent) == (Scope.message, True, False)
    # Others meet the server's failure as before.
    assert pool.refused(2, text, Phase.dot) == first


def test_a_session_that_cannot_be_opened_is_no_messages_fault(pool: Pool) -> None:
    jane = parse_address("jane@example.org")
    for _ in range(3):
        assert pool.finder.judge("id1", jane, Phase.connect, "connection refused", SERVER) == SERVER
        pool.accepted()


async def test_a_rate_is_counted_in_a_minute_whatever_is_accepted(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that limits the rate accepts some messages."""
    text = "450 4.7.1 rate limit exceeded"
    for number in range(1, SEVERAL):
        verdict = pool.refused(number, text)
        assert (verdict.scope, verdict.permanent, verdict.is_guess) == (Scope.recipient, False, True)
        assert pool.refused(number, text) == verdict
        pool.accepted()
        assert not pool.refused(number, text).is_guess
    assert not pool.finder.is_guessing
    assert pool.refused(SEVERAL, text).scope is Scope.throttle
    monkeypatch.setattr(module, "_THROTTLE_WINDOW_S", 0.0)
    await asyncio.sleep(0.001)
    assert pool.refused(SEVERAL + 1, text).scope is Scope.recipient


def test_memory_is_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MESSAGES", 5)
    monkeypatch.setattr(module, "_MAX_TEXTS", 5)
    words = [chr(ord("a") + number) * 3 for number in range(20)]
    for number, word in enumerate(words):
        pool.refused(number, f"550 5.7.1 {word}")
    assert len(pool.finder._failures) == 5
    assert len(pool.finder._refused) <= 5


def test_the_verdict_of_a_message_that_was_refused_for_its_own_sake_stays(pool: Pool) -> None:
    """Its refusals do not count for others any more."""
    pool.refused(1)
    pool.accepted()
    own = pool.refused(1)
    assert own == replace(own, is_guess=False, permanent=True)
    assert not pool.finder.is_guessing
