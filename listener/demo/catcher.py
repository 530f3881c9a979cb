"""A mail server on loopback that keeps what it gets."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP


@dataclass(frozen=True, slots=True)
class Mail:
    """An accepted message. `arrived` by `time.monotonic`, when the end of the data was read."""

    sender: str
    recipients: list[str]
    content: bytes
    arrived: float


class Catcher:
    """``async with Catcher(callback) as catcher``: `callback` gets each mail as it comes."""

    def __init__(self, callback: Callable[[Mail], None]) -> None:
        self._callback = callback
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"smtp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SMTP(self, loop=loop, enable_SMTPUTF8=True), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        arrived = time.monotonic()
        self._callback(Mail(envelope.mail_from, list(envelope.rcpt_tos), bytes(envelope.content), arrived))
        return "250 2.0.0 Accepted"
