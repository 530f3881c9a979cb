"""A server's reply, and the consequence of a failure for the event, the connection and the sending as a whole."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from listener.address import mask


class Phase(StrEnum):
    """The step of the SMTP session in which something happened. Metrics and histories show these names."""

    connect = "connect"
    tls = "tls"
    greeting = "greeting"
    ehlo = "ehlo"
    auth = "auth"
    mail = "mail"
    rcpt = "rcpt"
    data = "data"
    dot = "dot"


class Scope(StrEnum):
    """The cause of a failure."""

    server = "server"
    """the mail server fails or cannot be reached"""
    configuration = "configuration"
    """the server refuses every message from here: wrong login, sender, certificate or right to relay"""
    stale = "stale"
    """the server had dropped the connection while it was idle; another connection may work"""
    throttle = "throttle"
    """the server asks for a lower rate"""
    connections = "connections"
    """the server allows fewer connections"""
    quota = "quota"
    """the account's quota is used up for hours"""
    recipient = "recipient"
    """the server refuses this recipient"""
    message = "message"
    """the server refuses this message"""
    capability = "capability"
    """the server refuses an extension that it had announced; the message works without it"""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a server (RFC 5321 4.2)."""

    code: int
    enhanced: str | None
    """the enhanced status code, such as ``5.1.1`` (RFC 2034), or None"""
    text: str
    """the text of all lines in one line, with addresses masked, cut at 512 characters"""

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Self:
        """Read the lines of one reply, without their line ends.

        Raises:
            ValueError: The lines are not an SMTP reply.
        """
        code = lines[-1][:3]
        for line in lines:
            if not _LINE.match(line) or line[:3] != code:
                raise ValueError(f"not an SMTP reply: {mask(_decode(line))}")
        return cls.of(int(code), [_decode(line[4:]) for line in lines])

    @classmethod
    def of(cls, code: int, texts: Sequence[str]) -> Self:
        """Return the reply with this code and the text of each line.

        An enhanced code whose class is not that of `code` counts as text (RFC 2034 4).
        """
        found = _ENHANCED.match(texts[-1])
        if found is None or found[1] != str(code)[0]:
            return cls(code, None, mask(" ".join(texts).strip()))
        enhanced = f"{found[1]}.{found[2]}"
        return cls(code, enhanced, mask(" ".join(text.removeprefix(enhanced).strip() for text in texts)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequence of a failure."""

    scope: Scope
    permanent: bool
    """retrying would not help"""
    reason: str
    """the one word that the outbox keeps"""
    uses_attempt: bool
    """the failure uses one of the event's delivery attempts"""
    delay: float | None = None
    """seconds before the first retry, if the reply suggests a time"""
    remedy: str | None = None
    """what the operator can do, if this failure has a remedy of its own; `remedies.remedy_for` knows the others"""
    if_shared: "Verdict | None" = None
    """the verdict if several recipients get this reply; None: the reply is certain"""
    is_guess: bool = False
    """the reply may concern every message, so that no event fails yet"""
    is_shared: bool = False
    """several recipients got this reply, and nobody's message was accepted in between"""


_LINE = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")
_ENHANCED = re.compile(r"([245])\.(\d{1,3}\.\d{1,3})(?=\s|$)")


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
