"""The bytes of one SMTP connection: commands out, replies in, and whether what was written has left."""

import asyncio
from collections import deque

from listener.errors import PgheraldError
from listener.smtp.replies import Reply

_MAX_LINE = 4096
_MAX_LINES = 128
# The most one TLS record carries (RFC 8446 5.1). A record is read whole or not at all.
_RECORD = 16384


class ConnectionLost(PgheraldError):
    """Nothing more can be said or heard on this connection."""


class SmtpProtocol(asyncio.Protocol):
    """Takes over a transport on which the server has nothing to say until it is asked.

    `lost`: why the connection is of no more use, or None. `unsent`: the kernel has certainly not been given the last
    byte written. It stays what it was when the connection went, so it can be asked afterwards.
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
        # With no slack in the buffer, "paused" says that the kernel has not taken everything yet. It is the
        # only way to ask that asyncio, uvloop and their TLS share (where a high-water mark of 0 would mean
        # "always paused").
        transport.set_write_buffer_limits(high=1 if self._secured else 0, low=0)
        transport.set_protocol(self)

    def send(self, data: bytes, replies: int = 1) -> None:
        """Write, and expect so many replies. On a lost connection nothing is written."""
        if self.lost is not None:
            self.unsent = True
            return
        self._expected += replies
        if self._secured and len(data) > _RECORD:
            # What TLS has encrypted counts as sent, be it with the kernel or not. The dot in a write of its
            # own is encrypted only when what was before it has gone, give or take the transport's 64 KiB.
            self._transport.write(data[:-3])
            self._transport.write(data[-3:])
        else:
            self._transport.write(data)
        if self._transport.is_closing():
            self.unsent = True

    async def reply(self, timeout: float, *, steadfast: bool = False) -> Reply:
        """Wait for the next reply. Where `steadfast`, cancelling the task does not end the wait.

        Raises `WireLost` when the connection goes or `timeout` (seconds) passes, and not before what the server said
        earlier has been read.
        """
        if not self._replies and self.lost is None:
            timer = self._loop.call_later(timeout, self.fail, f"no reply within {timeout:g} s")
            try:
                while not self._replies and self.lost is None:
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    except asyncio.CancelledError:
                        if not steadfast:
                            raise
            finally:
                timer.cancel()
                self._waiter = None
        if self._replies:
            return self._replies.popleft()
        raise ConnectionLost(self.lost)

    def fail(self, why: str) -> None:
        """Give the connection up. What is still in a buffer must never leave: abort, not close."""
        if self.lost is None:
            self.lost = why
        self._transport.abort()
        self._wake()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.append(line.rstrip(b"\r"))
            if line[3:4] != b"-":
                self._complete()
            if self.lost is not None:
                return
        # A server that speaks unasked says that it is closing, or has lost count: the next reply would be
        # taken for another's.
        if self._expected == 0 and (self._rest or self._lines):
            self.fail("the server spoke out of turn")
        elif len(self._rest) > _MAX_LINE or len(self._lines) > _MAX_LINES:
            self.fail("the server's reply has no end")
        self._wake()

    def eof_received(self) -> bool:
        self.fail("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        if self.lost is None:
            self.unsent = True

    def resume_writing(self) -> None:
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
