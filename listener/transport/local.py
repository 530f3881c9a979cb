"""Transports without a mail server: into a folder, or onto the screen."""

import asyncio
import email
import email.policy
import sys
from contextlib import ExitStack
from pathlib import Path

from listener.files import folder, put
from listener.printable import printable, printable_lines
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, SendOutcome
from listener.smtp.replies import Phase, Reply, Scope
from listener.smtp.sending import Sending
from listener.smtp.verdicts import SERVER


class _LocalTransport:
    """A transport whose sending is one write, which works or raises `OSError`."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    async def send(self, sending: Sending) -> SendOutcome:
        """Write the message in a thread, because a disk may block. An error counts as a failure of the server."""
        if not await sending.permission() or not sending.may_begin():
            return NotPermitted()
        try:
            done = await asyncio.to_thread(self._write, sending)
        except OSError as error:
            detail = f"{error.filename or self}: {error.strerror or error}"
            self._breaker.failed(Scope.server, detail)
            return NotSent(Phase.connect, detail, SERVER)
        self._breaker.succeeded()
        return Accepted(Reply(250, None, done))

    def _write(self, sending: Sending) -> str:
        """Write the message and return, for the history, where it is."""
        raise NotImplementedError

    def abort(self) -> None:
        """Do nothing: a write cannot be interrupted, and it ends soon."""

    async def close(self) -> None:
        """Do nothing: no file stays open between two messages."""


class Maildir(_LocalTransport):
    """A folder that mail programs can read (maildir(5)), with one file per message: ``new/MESSAGE_ID.eml``.

    A message that is written again, for example after a crash, replaces its own file. Only the daemon's user can read
    the folder, since it contains addresses. Symbolic links are not followed.
    """

    def __init__(self, folder: Path, breaker: Breaker) -> None:
        super().__init__(breaker)
        self._folder = folder

    def _write(self, sending: Sending) -> str:
        # A server adds these fields when it delivers (RFC 5321 4.4). Without them the envelope would be lost.
        envelope = f"Return-Path: <{sending.sender}>\r\nDelivered-To: {sending.recipient}\r\n".encode()
        with ExitStack() as opened:
            box = opened.enter_context(folder(self._folder))
            tmp, new, _ = (opened.enter_context(folder(Path(part), within=box)) for part in ("tmp", "new", "cur"))
            put(new, f"{sending.message_id}.eml", envelope + sending.raw, by_way_of=tmp)
        return f"new/{sending.message_id}.eml"

    def __str__(self) -> str:
        return str(self._folder)


class Console(_LocalTransport):
    """Prints the headers and the decoded text to stdout, without the HTML, while somebody writes a rule."""

    def _write(self, sending: Sending) -> str:
        parsed = email.message_from_bytes(sending.raw, policy=email.policy.default)
        headers = "\n".join(
            printable(f"{name}: {value}") for name, value in parsed.items() if not name.startswith("Content-")
        )
        part = parsed.get_body(("plain",))
        text = "" if part is None else printable_lines(part.get_content())
        # One call, because several messages are written at the same time and their lines must not mix.
        sys.stdout.write(f"{'─' * 72}\n{headers}\n\n{text.strip()}\n")
        sys.stdout.flush()
        return "written to stdout"

    def __str__(self) -> str:
        return "stdout"
