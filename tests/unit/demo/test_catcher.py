"""The catcher accepts a message, keeps its bytes, and closes with its sessions open."""

import asyncio
import time
from email.message import EmailMessage

import aiosmtplib

from listener.demo.catcher import Catcher, CaughtMessage


def message(subject: str) -> EmailMessage:
    made = EmailMessage()
    made["Subject"] = subject
    made.set_content("Zürich")
    return made


async def test_it_hands_over_each_message_as_it_arrives() -> None:
    caught: list[CaughtMessage] = []
    async with Catcher(caught.append) as catcher:
        assert catcher.url == f"smtp://127.0.0.1:{catcher.port}"
        before = time.monotonic()
        for subject in ("one", "two"):
            await aiosmtplib.send(
                message(subject), sender="a@example.org", recipients=["b@example.org"], hostname="127.0.0.1",
                port=catcher.port, start_tls=False,
            )  # fmt: skip
    first, second = caught
    assert (first.sender, first.recipients) == ("a@example.org", ["b@example.org"])
    assert b"Subject: one" in first.content
    assert before <= first.arrived <= second.arrived


async def test_an_open_session_does_not_keep_it_from_closing() -> None:
    async with Catcher() as catcher:
        reader, writer = await asyncio.open_connection("127.0.0.1", catcher.port)
        assert (await reader.readline()).startswith(b"220 localhost")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
