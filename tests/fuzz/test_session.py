"""Opening a session to whatever answers there: a session, or `ServerTrouble`, and nothing else, in time."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from listener.smtp.connection import SmtpConnection
from listener.smtp.server import SmtpServer, Timeouts
from listener.smtp.session import SessionError, tls_context
from tests.fuzz.test_parsers import is_one_line
from tests.fuzz.test_send import BUDGET, REPLIES
from tests.support import PATIENCE
from tests.support.client import server_of
from tests.support.smtpd import Smtpd, answer

FEW = settings(BUDGET, max_examples=BUDGET.max_examples // 25)
TLS = tls_context()
SHORT = Timeouts(connect=5, greeting=0.1, command=0.1, quit=0.1)
SAID = st.sampled_from(
    [
        *REPLIES, b"220 smtpd ESMTP\r\n", b"250-smtpd\r\n250-STARTTLS\r\n250 SIZE 100\r\n", b"250-smtpd\r\n250 AUTH PLAIN\r\n",
        b"220 2.0.0 go ahead\r\n", b"250-\xff\xfe\r\n250 \x00\r\n", b"250-smtpd\r\n250-SIZE " + b"9" * 300 + b"\r\n250 AUTH=\r\n",
    ]
) | st.binary(max_size=60)  # fmt: skip


async def open_and_close(server: SmtpServer) -> None:
    async with asyncio.timeout(PATIENCE):
        try:
            connection = await SmtpConnection.open(server, TLS)
        except SessionError as error:
            outage = error
        else:
            connection.abort()
            return
    assert outage.detail
    assert is_one_line(outage.detail)
    assert not outage.verdict.permanent
    assert not outage.verdict.uses_attempt


@FEW
@given(st.lists(SAID, max_size=5), st.sampled_from(["off", "starttls", "tls"]))
def test_whatever_greets(turns: list[bytes], security: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number, turn in enumerate(turns):
                if number:
                    await reader.readline()
                writer.write(turn)
                await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            listening = await asyncio.start_server(serve, sock=sock)
            port = sock.getsockname()[1]
            await open_and_close(SmtpServer("127.0.0.1", port, security, ehlo_name="client.test", timeouts=SHORT))  # type: ignore[arg-type]
            listening.close()

    asyncio.run(story())


@FEW
@given(st.lists(st.text(max_size=20).map(lambda text: "".join(text.split())), min_size=1, max_size=2), st.booleans())
def test_whatever_is_said_to_a_login(words: list[str], xoauth2: bool) -> None:
    async def story() -> None:
        async with Smtpd("starttls", users={"user": "secret"}) as smtpd:
            smtpd.script("auth", answer(*(f"334 {word}" for word in words)))
            server = server_of(smtpd, username="user", password="secret", xoauth2=xoauth2)
            context = tls_context(smtpd.ca_file)
            async with asyncio.timeout(PATIENCE):
                with suppress(SessionError):
                    (await SmtpConnection.open(replace(server, timeouts=SHORT), context)).abort()

    asyncio.run(story())
