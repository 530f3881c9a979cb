"""The pool of connections: made when needed, kept while used, given up in time; and what it tells the breaker."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from listener.address import parse_address
from listener.smtp import pool as module
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.session import tls_context
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
    return await pool.send(SENDER, parse_address(recipient), MESSAGE, yes, KEY)


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


async def test_nobody_is_relayed_for(smtpd: Smtpd, pool: SmtpPool) -> None:
    """Three in a row; a recipient that is refused for its own sake shows that others are not."""
    smtpd.script("rcpt", answer("550 5.1.1 no such user"), recipient="unknown@example.com")
    smtpd.script("rcpt", answer("554 5.7.1 relay access denied"), recipient="far@example.net")
    for recipient in ("far@example.net", "far@example.net", "unknown@example.com") * 2:
        outcome = await send(pool, recipient)
        assert isinstance(outcome, Refused)
        assert not outcome.verdict.permanent or recipient == "unknown@example.com"
        assert not pool._breaker.is_open
    for _ in range(3):
        await send(pool, "far@example.net")
    assert pool._breaker.is_open


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
