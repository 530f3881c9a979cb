"""The bytes of one SMTP connection: it writes commands, reads replies, and knows whether the last byte has left."""

import asyncio
from collections import deque

from listener.errors import PgheraldError
from listener.smtp.replies import Reply

# RFC 5321 4.5.3.1.5 allows 512 bytes a reply line. Some servers exceed that, none by a factor of 8.
_MAX_LINE_BYTES = 4096
# EHLO, the longest reply, has about 20 lines.
_MAX_LINES = 128
# The largest TLS record (RFC 8446 5.1). The receiver gets a record whole or not at all.
_MAX_TLS_RECORD_BYTES = 16384
# The dot, with its line end.
_DOT_BYTES = len(b".\r\n")


class ConnectionLost(PgheraldError):
    """The connection broke, timed out, or can no longer be trusted. Nothing can be sent or read on it."""


class SmtpProtocol(asyncio.Protocol):
    """Takes over a transport between two commands, while the server has nothing to say.

    `lost` is the reason why the connection cannot be used any more, or None. `unsent` is True while the kernel has
    certainly not taken the last byte written. It keeps its value after the connection is lost.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: str | None = None
        self.unsent = False
        self._transport = transport
        self._loop = loop
        self._secured = transport.get_extra_info("sslcontext") is not None
        self._replies: deque[Reply] = deque()
        self._expected = 0
        self._lines: list[bytes] = []
        self._rest = b""
        self._waiter: asyncio.Future[None] | None = None
        if transport.is_closing():
            self.lost = "the server closed the connection"
            return
        # With limits of 0, "writing is paused" means that the kernel has not taken every byte yet. This is the only way
        # to find out that works with asyncio, with uvloop and with the TLS of both. Under TLS the limit is 1, because a
        # high-water mark of 0 would mean "always paused".
        transport.set_write_buffer_limits(high=1 if self._secured else 0, low=0)
        transport.set_protocol(self)

    def send(self, data: bytes, replies: int = 1) -> None:
        """Write the bytes and expect `replies` replies to them. Write nothing if the connection is lost."""
        if self.lost is not None:
            self.unsent = True
            return
        self._expected += replies
        if self._secured and len(data) > _MAX_TLS_RECORD_BYTES:
            # Bytes that TLS has encrypted count as sent, even if the kernel does not have them yet. In a write of its
            # own the dot is encrypted only when the bytes before it have gone, give or take the transport's 64 KiB.
            self._transport.write(data[:-_DOT_BYTES])
            self._transport.write(data[-_DOT_BYTES:])
        else:
            self._transport.write(data)
        if self._transport.is_closing():
            self.unsent = True

    async def reply(self, timeout: float, *, shielded: bool = False) -> Reply:
        """Wait up to `timeout` seconds for the next reply. If `shielded`, cancelling the task does not end the wait.

        Raises:
            ConnectionLost: The connection broke, or `timeout` passed. Replies that came before are returned first.
        """
        if not self._replies and self.lost is None:
            timer = self._loop.call_later(timeout, self.fail, f"no reply within {timeout:g} s")
            try:
                while not self._replies and self.lost is None:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    except asyncio.CancelledError:
                        if not shielded:
                            raise
            finally:
                timer.cancel()
                self._waiter = None
        if self._replies:
            return self._replies.popleft()
        raise ConnectionLost(self.lost)

    def fail(self, reason: str) -> None:
        """Cut the connection. The first `reason` stays in `lost`."""
        if self.lost is None:
            self.lost = reason
        # Not close(): that would still send the bytes in the buffer, and a message reported as not sent would leave.
        self._transport.abort()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Split the bytes into replies (called by the event loop)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.append(line.rstrip(b"\r"))
            if line[3:4] != b"-":
                self._complete()
            if self.lost is not None:
                return
        # A server that sends without being asked is closing the connection or has lost count. Its bytes would be taken
        # for the reply to the next command.
        if self._expected == 0 and (self._rest or self._lines):
            self.fail("the server spoke out of turn")
        elif len(self._rest) > _MAX_LINE_BYTES or len(self._lines) > _MAX_LINES:
            self.fail("the server's reply has no end")
        self._wake()

    def eof_received(self) -> bool:
        """Give up the connection: the server closed its side (called by the event loop)."""
        self.fail("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the connection is gone (called by the event loop)."""
        self.fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        """Record that the kernel has not taken every byte yet (called by the event loop)."""
        if self.lost is None:
            self.unsent = True

    def resume_writing(self) -> None:
        """Record that the kernel has taken every byte (called by the event loop)."""
        if self.lost is None:
            self.unsent = False

    def _complete(self) -> None:
        lines, self._lines = self._lines, []
        try:
            reply = Reply.parse(lines)
        except ValueError as error:
            return self.fail(str(error))
        if self._expected == 0:
            return self.fail(f"the server spoke out of turn: {reply}")
        self._expected -= 1
        self._replies.append(reply)
        return None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
