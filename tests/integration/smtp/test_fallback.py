"""A second mail server takes over while the first one is unavailable, and nothing is sent twice."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from listener.address import parse_address
from listener.smtp.breaker import Breaker
from listener.smtp.fallback import SmtpFallback
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.sending import Sending
from listener.smtp.session import tls_context
from tests.support.client import MESSAGE, server_of, yes
from tests.support.smtpd import Smtpd, answer, drop, swallow

SENDER = parse_address("no-reply@example.org")


@dataclass
class Pair:
    """Two servers, and the transport that uses them. `own` is the first one's breaker, `breaker` the worker's."""

    first: Smtpd
    second: Smtpd
    own: Breaker
    breaker: Breaker
    transport: SmtpFallback
    sent: int = 0

    async def send(self, number: int = 0, *, is_repeat: bool = False) -> SendOutcome:
        self.sent += 1
        number = number or self.sent
        recipient = parse_address(f"u{number}@example.org")
        return await self.transport.send(Sending(SENDER, recipient, MESSAGE, yes, f"id{number}", is_repeat=is_repeat))

    async def break_first(self) -> None:
        """Open the first one's breaker by a failure that concerns all messages."""
        self.first.script("mail", answer("550 5.7.1 sender not allowed"))
        await self.send()
        assert self.own.is_open


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with Smtpd() as first, Smtpd() as second:
        own, breaker = Breaker(), Breaker()
        breaker.bypassed = own
        pools = [
            SmtpPool(server_of(smtpd), tls_context(), 4, each) for smtpd, each in ((first, own), (second, breaker))
        ]
        transport = SmtpFallback(pools[0], own, pools[1])
        yield Pair(first, second, own, breaker, transport)
        transport.abort()
        await transport.close()


async def test_the_second_is_not_used_while_the_first_works(pair: Pair) -> None:
    pair.first.script("rcpt", answer("550 5.1.1 no such user"), recipient="u2@example.org")
    outcomes = [await pair.send() for _ in range(3)]
    assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
    assert (len(pair.first.messages), pair.second.connections) == (2, 0)


async def test_a_message_that_opens_the_first_ones_breaker_goes_to_the_second_at_once(pair: Pair) -> None:
    pair.first.script("mail", answer("550 5.7.1 sender not allowed"))
    assert isinstance(await pair.send(), Accepted)
    assert len(pair.second.messages) == 1
    assert not pair.breaker.is_open
    assert pair.breaker.reason == "mail: 550 5.7.1 sender not allowed; messages go through [smtp] fallback_url"
    for _ in range(5):
        assert isinstance(await pair.send(), Accepted)
    assert (pair.first.mails, len(pair.second.messages)) == (1, 6)


async def test_one_message_at_a_time_tries_the_first_again_and_returns_to_it(pair: Pair) -> None:
    await pair.break_first()
    pair.own.retry_now()
    assert isinstance(await pair.send(), Accepted)
    assert (pair.first.mails, len(pair.second.messages)) == (2, 2)
    pair.first.forget_script()
    pair.own.retry_now()
    assert isinstance(await pair.send(), Accepted)
    assert isinstance(await pair.send(), Accepted)
    assert (len(pair.first.messages), len(pair.second.messages)) == (2, 2)
    assert pair.breaker.reason is None


async def test_five_lost_connections_lead_to_the_second(pair: Pair) -> None:
    pair.first.script("mail", drop())
    outcomes = [await pair.send() for _ in range(6)]
    assert [type(outcome) for outcome in outcomes] == [NotSent] * 4 + [Accepted] * 2


async def test_a_message_in_doubt_does_not_go_to_the_second(pair: Pair) -> None:
    """The first server may have it."""
    pair.first.script("dot", swallow())
    for _ in range(5):
        assert isinstance(await pair.send(), InDoubt)
    assert pair.own.is_open
    assert pair.second.connections == 0
    outcome = await pair.send(1, is_repeat=True)
    assert isinstance(outcome, NotSent)
    assert outcome.verdict.delay == 15
    assert not outcome.verdict.uses_attempt
    assert pair.second.connections == 0
    assert isinstance(await pair.send(), Accepted)
    pair.first.forget_script()
    pair.own.retry_now()
    assert isinstance(await pair.send(1, is_repeat=True), Accepted)
    assert len(pair.first.messages) == 6


async def test_both_fail(pair: Pair) -> None:
    await pair.break_first()
    await pair.second.refuse_connections()
    while not pair.breaker.is_open:
        assert isinstance(await pair.send(), NotSent)
    assert isinstance(await pair.send(), NotPermitted)
    assert "connection refused" in (pair.breaker.reason or "")
    # An operator's request reaches both.
    pair.first.forget_script()
    pair.breaker.retry_now()
    await pair.breaker.wait()
    assert isinstance(await pair.send(), Accepted)
    assert len(pair.first.messages) == 1
