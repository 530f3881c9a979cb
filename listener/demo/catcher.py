"""An SMTP server on loopback that keeps every message."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP


@dataclass(frozen=True, slots=True)
class CaughtMessage:
    """An accepted message. `arrived` (by `time.monotonic`, in seconds) and `at` are the time when its end was read."""

    sender: str
    recipients: list[str]
    content: bytes
    arrived: float
    at: datetime


class Catcher:
    """``async with Catcher(callback) as catcher`` runs the server. `callback` is called with each message."""

    def __init__(self, callback: Callable[[CaughtMessage], None] | None = None) -> None:
        self._callback = callback
        self._server: asyncio.Server | None = None
        self._sessions: list[SMTP] = []

    @property
    def port(self) -> int:
        """Return the port of the server."""
        assert self._server is not None, "not started"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Return the server's URL for `[smtp] url`."""
        return f"smtp://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._session, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        # Closing a server leaves its connections open, and since Python 3.12 wait_closed() waits for them.
        for session in self._sessions:
            if session.transport is not None:
                session.transport.close()
        await self._server.wait_closed()

    def _session(self) -> SMTP:
        self._sessions = [session for session in self._sessions if session.transport is not None]
        # Without a host name, aiosmtpd asks the DNS for ours, which may take long.
        session = SMTP(self, hostname="localhost", loop=asyncio.get_running_loop(), enable_SMTPUTF8=True)
        self._sessions.append(session)
        return session

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Accept a message. aiosmtpd calls this after the final dot."""
        message = CaughtMessage(
            envelope.mail_from, list(envelope.rcpt_tos), bytes(envelope.content), time.monotonic(), datetime.now(UTC)
        )
        if self._callback is not None:
            self._callback(message)
        return "250 2.0.0 Accepted"
