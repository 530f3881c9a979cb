"""Helpers for tests of the SMTP client: both event loops, ways to connect, and waiting without sleeping."""

import asyncio
import functools
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest

from listener.address import parse_address
from listener.smtp.connection import SmtpConnection
from listener.smtp.outcome import SendOutcome
from listener.smtp.sending import MayBegin, Sending, always
from listener.smtp.server import SmtpServer, Timeouts
from listener.smtp.session import SessionError, tls_context
from tests.support import PATIENCE, repeats
from tests.support.smtpd import EXTENSIONS, Smtpd

Security = Literal["off", "starttls", "tls"]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop

KEY = "abcdefghijklmnopqrstuvwxyz"
MESSAGE = b"Subject: x\r\n\r\n.hello\r\n..\r\n.\r\nbye\r\n"
PLAIN = tuple(extension for extension in EXTENSIONS if extension != "PIPELINING")
# Long enough for a loaded machine to answer, short enough to wait for.
SHORT = Timeouts(connect=5, greeting=5, command=0.5, data=0.5, dot=0.5, quit=0.5)
PATIENT = Timeouts(connect=40, greeting=40, command=40, data=40, dot=40, quit=40)
_DISTRUSTFUL = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SECURED = pytest.mark.parametrize("security", ["off", "starttls", repeats("tls")])
PIPELINED = pytest.mark.parametrize("extensions", [EXTENSIONS, PLAIN], ids=["pipelined", "one by one"])


def on_every_loop(story: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run it on asyncio's loop and, in the slow run, on uvloop where that is installed."""

    @pytest.mark.parametrize("loop", [loop if loop == "asyncio" else repeats(loop) for loop in LOOPS])
    @functools.wraps(story)
    def test(loop: str, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(story(**arguments))

    parameters = inspect.signature(story).parameters.values()
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([loop, *parameters])
    del test.__wrapped__
    return test


def server_of(smtpd: Smtpd, timeouts: Timeouts = PATIENT, **changes: Any) -> SmtpServer:
    server = SmtpServer("localhost", smtpd.port, smtpd.security, timeouts=timeouts, ehlo_name="client.test")
    return replace(server, **changes)


async def connect(smtpd: Smtpd, timeouts: Timeouts = PATIENT, **changes: Any) -> SmtpConnection:
    context = tls_context(smtpd.ca_file) if smtpd.security != "off" else _DISTRUSTFUL
    return await SmtpConnection.open(server_of(smtpd, timeouts, **changes), context)


@asynccontextmanager
async def connected(smtpd: Smtpd, timeouts: Timeouts = PATIENT, **changes: Any) -> AsyncIterator[SmtpConnection]:
    connection = await connect(smtpd, timeouts, **changes)
    try:
        yield connection
    finally:
        connection.abort()


async def yes() -> bool:
    return True


def send(
    connection: SmtpConnection,
    permission: Callable[[], Awaitable[bool]] = yes,
    message: bytes = MESSAGE,
    recipient: str = "jane@example.com",
    sender: str = "no-reply@example.org",
    may_begin: MayBegin = always,
) -> Coroutine[Any, Any, SendOutcome]:
    return connection.send(
        Sending(parse_address(sender), parse_address(recipient), message, permission, KEY, may_begin)
    )


async def trouble_of(smtpd: Smtpd, timeouts: Timeouts = PATIENT, **changes: Any) -> SessionError:
    with pytest.raises(SessionError) as caught:
        await connect(smtpd, timeouts, **changes)
    return caught.value


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def let_bytes_arrive() -> None:
    """Loopback delivers at once: what has been written is read in the next turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)
