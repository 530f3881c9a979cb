"""The consequences of an outcome for the breaker, and the verdict that the worker gets."""

import pytest

from listener.address import parse_address
from listener.smtp.breaker import Breaker
from listener.smtp.judge import Judge
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.replies import Phase, Reply, Scope
from listener.smtp.sending import Sending
from listener.smtp.verdicts import CONFIGURATION, SERVER, classify
from tests.support.client import yes

OK = Accepted(Reply(250, None, "ok"))


class Bench:
    """A judge with its breaker. Each message has a recipient of its own."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.judge = Judge(self.breaker)

    def say(self, number: int, outcome: SendOutcome) -> SendOutcome:
        address = parse_address(f"user{number}@example.org")
        return self.judge.judge(outcome, Sending(address, address, b"", yes, f"id{number}"))

    def refuse(self, number: int, text: str, phase: Phase = Phase.rcpt) -> Refused:
        reply = Reply.parse([text.encode()])
        outcome = self.say(number, Refused(phase, reply, classify(phase, reply, reused=False)))
        assert isinstance(outcome, Refused)
        return outcome


async def test_a_fault_of_all_opens_the_breaker_and_says_why() -> None:
    bench = Bench()
    for number in (1, 2):
        assert bench.refuse(number, "550 5.7.1 policy").verdict.is_guess
        assert bench.judge.is_guessing
        assert not bench.breaker.is_open
    assert bench.refuse(3, "550 5.7.1 policy").verdict.scope is Scope.configuration
    assert bench.breaker.reason is not None
    assert bench.breaker.reason.startswith("rcpt: 550 5.7.1 policy; 3 recipients got this reply")


async def test_the_servers_temporary_fault_opens_it_at_the_third_recipient_and_not_at_the_fifth_failure() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        assert not bench.breaker.is_open
        bench.refuse(number, "451 4.7.1 try again later", Phase.dot)
    assert bench.breaker.is_open


async def test_a_quota_pauses() -> None:
    bench = Bench()
    bench.refuse(1, "550 5.4.5 Daily user sending limit exceeded")
    bench.say(2, OK)
    assert bench.breaker.is_open


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (InDoubt("lost"), 1),
        (NotSent(Phase.connect, "refused", SERVER), 1),
        (NotSent(Phase.tls, "certificate", CONFIGURATION), 1),
        (NotPermitted(), 0),
        (OK, 0),
    ],
)
async def test_what_counts_as_a_failure(outcome: SendOutcome, failures: int) -> None:
    bench = Bench()
    assert bench.say(1, outcome) == outcome
    assert bench.breaker._failures == failures


async def test_a_dead_address_shows_that_the_server_works() -> None:
    bench = Bench()
    for number in range(4):
        bench.say(number, NotSent(Phase.data, "lost", SERVER))
    assert bench.refuse(9, "550 5.1.1 no such user").verdict.permanent
    assert bench.breaker._failures == 0
