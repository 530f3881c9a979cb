"""The pool of connections: made when needed, kept while used, given up in time; and what it tells the breaker."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from listener.address import parse_address
from listener.smtp import pool as module
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Scope
from listener.smtp.sending import Sending
from listener.smtp.session import tls_context
from tests.support import repeats
from tests.support.client import KEY, MESSAGE, server_of, yes
from tests.support.smtpd import Smtpd, answer, close, wait_for

pytestmark = pytest.mark.asyncio

SENDER = parse_address("no-reply@example.org")


@pytest.fixture
async def smtpd() -> AsyncIterator[Smtpd]:
    async with Smtpd() as smtpd:
        yield smtpd


@pytest.fixture
async def pool(smtpd: Smtpd) -> AsyncIterator[SmtpPool]:
    pool = SmtpPool(server_of(smtpd), tls_context(), 4, Breaker())
    yield pool
    pool.abort()
    await pool.close()


async def send(pool: SmtpPool, recipient: str = "jane@example.com") -> SendOutcome:
    return await pool.send(Sending(SENDER, parse_address(recipient), MESSAGE, yes, f"{KEY} {recipient}"))


async def test_one_message_after_the_other_needs_one_connection(smtpd: Smtpd, pool: SmtpPool) -> None:
    assert smtpd.connections == 0
    for _ in range(5):
        assert isinstance(await send(pool), Accepted)
    assert (smtpd.connections, len(smtpd.messages)) == (1, 5)


async def test_it_grows_with_what_waits_and_no_further_than_it_may(smtpd: Smtpd, pool: SmtpPool) -> None:
    gate = asyncio.Event()
    smtpd.script("dot", wait_for(gate))
    sending = [asyncio.create_task(send(pool)) for _ in range(2)]
    await smtpd.reached("dot", 2)
    assert smtpd.connections == 2
    sending += [asyncio.create_task(send(pool)) for _ in range(6)]
    await smtpd.reached("dot", 4)
    gate.set()
    assert all(isinstance(outcome, Accepted) for outcome in await asyncio.gather(*sending))
    assert (smtpd.connections, len(smtpd.messages)) == (4, 8)


async def test_a_connection_carries_so_many_messages(
    smtpd: Smtpd, pool: SmtpPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES_PER_CONNECTION", 3)
    for _ in range(7):
        await send(pool)
    assert [message.connection for message in smtpd.messages] == [1, 1, 1, 2, 2, 2, 3]
    assert smtpd.seen["quit"] == 2


async def test_a_connection_grows_so_old(smtpd: Smtpd, pool: SmtpPool, monkeypatch: pytest.MonkeyPatch) -> None:
    await send(pool)
    monkeypatch.setattr(module, "MAX_CONNECTION_AGE_S", 0.0)
    await send(pool)
    assert (smtpd.connections, smtpd.seen["quit"]) == (1, 1)
    await send(pool)
    assert smtpd.connections == 2


async def test_what_lies_idle_is_given_up(smtpd: Smtpd, pool: SmtpPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDLE_S", 0.1)
    await asyncio.gather(*(send(pool) for _ in range(3)))
    assert smtpd.connections == 3
    await smtpd.until(lambda: not smtpd.sessions)
    assert smtpd.seen["quit"] == 3
    assert isinstance(await send(pool), Accepted)


async def test_the_last_used_goes_first_so_that_the_others_fall_idle(smtpd: Smtpd, pool: SmtpPool) -> None:
    await asyncio.gather(*(send(pool) for _ in range(3)))
    for _ in range(4):
        await send(pool)
    assert len({message.connection for message in smtpd.messages[3:]}) == 1


async def test_a_connection_that_the_server_has_closed_is_not_tried(smtpd: Smtpd, pool: SmtpPool) -> None:
    gate = asyncio.Event()
    smtpd.script("idle", wait_for(gate), times=1)
    await send(pool)
    (session,) = smtpd.sessions
    session.transport.close()
    gate.set()
    await smtpd.until(lambda: not smtpd.sessions)
    await asyncio.sleep(0)
    assert isinstance(await send(pool), Accepted)
    assert smtpd.connections == 2
    assert smtpd.mails == 2


async def test_a_stale_one_does_not_spend_the_message_and_the_others_are_not_tried(
    smtpd: Smtpd, pool: SmtpPool
) -> None:
    await asyncio.gather(*(send(pool) for _ in range(4)))
    assert smtpd.connections == 4
    smtpd.script("mail", close(), times=1)
    assert isinstance(await send(pool), Accepted)
    assert smtpd.messages[-1].connection == 5
    assert pool._breaker._failures == 0
    await smtpd.until(lambda: smtpd.seen["quit"] == 3)


async def test_three_recipients_that_are_refused_alike_open_the_breaker(smtpd: Smtpd, pool: SmtpPool) -> None:
    """Dead addresses do not count, and one recipient alone is not several."""
    smtpd.script("rcpt", answer("550 5.1.1 no such user"), recipient="unknown@example.com")
    smtpd.script("rcpt", answer("554 5.7.1 relay access denied"), recipient="far@example.net")
    for recipient in ("far@example.net", "far@example.net", "unknown@example.com") * 2:
        outcome = await send(pool, recipient)
        assert isinstance(outcome, Refused)
        assert not outcome.verdict.permanent or recipient == "unknown@example.com"
        assert not pool._breaker.is_open
    smtpd.script("rcpt", answer("554 5.7.1 relay access denied"))
    outcomes = [await send(pool, f"far{number}@example.net") for number in range(2)]
    assert pool._breaker.reason == (
        "rcpt: 554 5.7.1 relay access denied; 3 recipients got this reply with no other message accepted in between"
    )
    assert isinstance(outcomes[1], Refused)
    assert (outcomes[1].verdict.scope, outcomes[1].verdict.reason) == (Scope.configuration, "relay_denied")
    assert isinstance(await send(pool), NotPermitted)


async def test_while_a_refusal_may_concern_everybody_the_others_go_one_at_a_time(smtpd: Smtpd, pool: SmtpPool) -> None:
    """The first acceptance ends that at once."""
    smtpd.script("rcpt", answer("550 5.7.1 policy"), recipient="jane@example.com")
    outcome = await send(pool)
    assert isinstance(outcome, Refused)
    assert outcome.verdict.is_guess
    gate = asyncio.Event()
    smtpd.script("dot", wait_for(gate), times=1)
    sending = [asyncio.create_task(send(pool, f"user{number}@example.com")) for number in range(6)]
    await smtpd.reached("dot")
    await asyncio.sleep(0.05)
    assert smtpd.seen["rcpt"] == 2
    gate.set()
    assert all(isinstance(outcome, Accepted) for outcome in await asyncio.gather(*sending))
    outcome = await send(pool)
    assert isinstance(outcome, Refused)
    assert outcome.verdict.permanent


async def test_after_several_refusals_a_new_connection_is_opened(smtpd: Smtpd, pool: SmtpPool) -> None:
    """Postfix delays its replies on a connection with many errors."""
    smtpd.script("rcpt", answer("550 5.1.1 no such user"))
    for number in range(10):
        await send(pool, f"user{number}@example.com")
    assert smtpd.connections == 3


async def test_a_server_that_allows_two_connections_gets_two(smtpd: Smtpd, pool: SmtpPool) -> None:
    """Neither the breaker nor a message is charged, and no connection beyond the first four is refused."""
    smtpd.most_connections = 2
    outcomes = await asyncio.gather(*(send(pool, f"user{number}@example.com") for number in range(50)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert (pool._limit.now, pool._breaker._failures) == (2, 0)
    assert smtpd.connections <= 5


async def test_a_server_that_allows_no_connection_has_failed(smtpd: Smtpd, pool: SmtpPool) -> None:
    smtpd.script("greeting", answer("421 4.7.0 too many connections", then="close"))
    outcome = await send(pool)
    assert isinstance(outcome, NotSent)
    assert outcome.verdict.scope is Scope.server


@pytest.mark.parametrize("where", ["mail", repeats("dot")])
async def test_a_limit_that_is_said_to_a_message_lowers_the_number(smtpd: Smtpd, pool: SmtpPool, where: str) -> None:
    gate = asyncio.Event()
    smtpd.script("dot", wait_for(gate), recipient="first@example.com")
    first = asyncio.create_task(send(pool, "first@example.com"))
    await smtpd.reached("dot")
    smtpd.script(where, answer("432 4.3.2 Concurrent connections limit exceeded"), message=2)
    second = asyncio.create_task(send(pool, "second@example.com"))
    await smtpd.until(lambda: pool._limit.now == 1)
    gate.set()
    assert all(isinstance(outcome, Accepted) for outcome in await asyncio.gather(first, second))


async def test_a_task_that_is_cancelled_leaves_no_connection_half_way(smtpd: Smtpd, pool: SmtpPool) -> None:
    gate = asyncio.Event()
    smtpd.script("data", wait_for(gate), times=1)
    sending = asyncio.create_task(send(pool))
    await smtpd.reached("data")
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await smtpd.until(lambda: not smtpd.sessions)
    assert isinstance(await send(pool), Accepted)
    assert (smtpd.connections, len(smtpd.messages)) == (2, 1)
