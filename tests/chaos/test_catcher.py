"""Each trouble of the mail server is one; and what it has accepted is known, whatever it said about it."""

import asyncio
import random

import pytest

from listener.smtp.outcome import Accepted, InDoubt, NotSent, Refused
from listener.smtp.server import Timeouts
from listener.smtp.session import SessionError
from tests.chaos.catcher import TROUBLES, Catcher
from tests.support.client import connect, send

# As long as the story's mail, so that its body comes in pieces.
MESSAGE = b"X-Pgherald-Key: key\r\n\r\n" + 65 * (70 * b"y" + b"\r\n")
SHORT = Timeouts(connect=5, greeting=1, command=1, data=1, dot=1, quit=1)
ACCEPTED_ALL_THE_SAME = {"dot: swallow", "dot: late"}


async def outcome_of(catcher: Catcher) -> object:
    try:
        connection = await connect(catcher, SHORT)
    except SessionError as outage:
        return outage
    try:
        outcome = await send(connection, message=MESSAGE)
        if isinstance(outcome, Accepted):
            # The next connection feels the effect.
            return await send(connection, message=MESSAGE)
        return outcome
    finally:
        connection.abort()


@pytest.mark.parametrize("name", TROUBLES)
async def test_each_trouble_is_one(name: str) -> None:
    async with Catcher(random.Random(1), (0, 0)) as catcher:
        catcher.outage(name, 1.0)
        outcome = await outcome_of(catcher)
        assert isinstance(outcome, SessionError | Refused | NotSent | InDoubt)
        catcher.calm()
        await catcher.until(lambda: not catcher.sessions)
        if name in ACCEPTED_ALL_THE_SAME:
            assert isinstance(outcome, InDoubt)
            assert [copy.recipient for copy in catcher.copies["key"]] == ["jane@example.com"]
        elif name != "idle: close":
            assert not catcher.copies
        assert isinstance(await outcome_of(catcher), Accepted)


async def test_who_is_unknown_here_never_gets_a_mail() -> None:
    async with Catcher(random.Random(1), (0, 0)) as catcher:
        connection = await connect(catcher)
        assert isinstance(await send(connection, message=MESSAGE, recipient="x1@example.com"), Refused)
        connection.abort()
        assert not catcher.copies


async def test_who_was_reset_is_gone() -> None:
    async with Catcher(random.Random(1), (0, 0)) as catcher:
        connection = await connect(catcher)
        await catcher.refuse_connections()
        await asyncio.sleep(0)
        assert not catcher.sessions
        with pytest.raises(SessionError):
            await connect(catcher)
        await catcher.listen()
        assert isinstance(await send(await connect(catcher), message=MESSAGE), Accepted)
        connection.abort()
