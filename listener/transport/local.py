"""Where messages go: to the mail server (`listener.smtp.pool`), into a folder, or onto the screen.

All keep to the same order, so that an event lives the same life in each: permission, which is the durable mark, then
the message, then the outcome.
"""

import asyncio
import email
import email.policy
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from listener.address import Address
from listener.files import folder, put
from listener.printable import printable, printable_lines
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, SendOutcome
from listener.smtp.replies import SERVER, Phase, Reply, Scope

Permission = Callable[[], Awaitable[bool]]


class Transport(Protocol):
    async def send(
        self, sender: Address, recipient: Address, message: bytes, permission: Permission, key: str
    ) -> SendOutcome:
        """One message, once: not before `permission` is given, nothing of it if that is denied."""

    def abort(self) -> None:
        """Let go at once of what is under way."""

    async def close(self) -> None: ...


class _Local:
    """What the two that need no server have in common: one write, which works or does not."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    async def send(
        self, sender: Address, recipient: Address, message: bytes, permission: Permission, key: str
    ) -> SendOutcome:
        if not await permission():
            return NotPermitted()
        try:
            done = await asyncio.to_thread(self._write, sender, recipient, message, key)
        except OSError as error:
            detail = f"{error.filename or self}: {error.strerror or error}"
            self._breaker.failed(Scope.server, detail)
            return NotSent(Phase.connect, detail, SERVER)
        self._breaker.succeeded()
        return Accepted(Reply(250, None, done))

    def _write(self, sender: Address, recipient: Address, message: bytes, key: str) -> str:
        raise NotImplementedError

    def abort(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Maildir(_Local):
    """A folder as mail programs read it (maildir(5)), a message a file: ``new/KEY.eml``.

    Named by the message's key: one that is written a second time, after a crash, takes its own place. For the daemon's
    user alone, since addresses are in it, and no link is followed.
    """

    def __init__(self, folder: Path, breaker: Breaker) -> None:
        super().__init__(breaker)
        self._folder = folder

    def _write(self, sender: Address, recipient: Address, message: bytes, key: str) -> str:
        # What a server adds when it delivers (RFC 5321 4.4): the envelope would be lost otherwise.
        envelope = f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n".encode()
        with ExitStack() as opened:
            box = opened.enter_context(folder(self._folder))
            tmp, new, _ = (opened.enter_context(folder(Path(part), within=box)) for part in ("tmp", "new", "cur"))
            put(new, f"{key}.eml", envelope + message, by_way_of=tmp)
        return f"new/{key}.eml"

    def __str__(self) -> str:
        return str(self._folder)


class Console(_Local):
    """Stdout, for whoever develops a rule: the headers and the text, readable. The HTML is left out."""

    def _write(self, sender: Address, recipient: Address, message: bytes, key: str) -> str:
        parsed = email.message_from_bytes(message, policy=email.policy.default)
        headers = "\n".join(
            printable(f"{name}: {value}") for name, value in parsed.items() if not name.startswith("Content-")
        )
        text = parsed.get_body(("plain",))
        said = "" if text is None else printable_lines(text.get_content())
        # One call, so that no other message comes between.
        sys.stdout.write(f"{'─' * 72}\n{headers}\n\n{said.strip()}\n")
        sys.stdout.flush()
        return "written to stdout"

    def __str__(self) -> str:
        return "stdout"
