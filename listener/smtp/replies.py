"""A server's reply, and its meaning for the event, the connection and the sending as a whole.

The basic code decides and the enhanced code refines it. An unknown detail counts as its class (RFC 3463 2,
RFC 5321 4.3.2).

Two rules hold for every row of the table. A failure of the server uses no event's attempt. A failure that concerns all
messages (the sender, the password, the right to relay) never fails a single event.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

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


SERVER = Verdict(Scope.server, permanent=False, reason="server", uses_attempt=False)
CONFIGURATION = Verdict(Scope.configuration, permanent=False, reason="configuration", uses_attempt=False)
STALE = Verdict(Scope.stale, permanent=False, reason="stale", uses_attempt=False, delay=0.0)
# The delays follow what servers ask for. A rate limit lifts within seconds and greylisting (RFC 6647) within minutes. A
# full mailbox may have room again after an hour.
_THROTTLED = Verdict(Scope.throttle, permanent=False, reason="throttled", uses_attempt=False, delay=5.0)
_QUOTA = Verdict(Scope.quota, permanent=False, reason="quota", uses_attempt=False, delay=600.0)
_CAPABILITY = Verdict(Scope.capability, permanent=False, reason="capability", uses_attempt=False, delay=0.0)
_BAD_ADDRESS = Verdict(Scope.recipient, permanent=True, reason="bad_address", uses_attempt=True)
_MAILBOX_FULL = Verdict(Scope.recipient, permanent=False, reason="mailbox_full", uses_attempt=True, delay=3600.0)
_GREYLISTED = Verdict(Scope.recipient, permanent=False, reason="greylisted", uses_attempt=True, delay=300.0)
# Transient: three in a row are treated as a configuration error, and the first two events must survive that.
_RELAY_DENIED = Verdict(Scope.recipient, permanent=False, reason="relay_denied", uses_attempt=True)
_RECIPIENT_DEFERRED = Verdict(Scope.recipient, permanent=False, reason="deferred", uses_attempt=True, delay=300.0)
_RECIPIENT_REJECTED = Verdict(Scope.recipient, permanent=True, reason="rejected", uses_attempt=True)
_TOO_LARGE = Verdict(Scope.message, permanent=True, reason="too_large", uses_attempt=True)
_DEFERRED = Verdict(Scope.message, permanent=False, reason="deferred", uses_attempt=True)
_REJECTED = Verdict(Scope.message, permanent=True, reason="rejected", uses_attempt=True)


def classify(phase: Phase, reply: Reply, *, reused: bool, extended: bool = False) -> Verdict:
    """Return the consequence of a refusal: the verdict of the first row of `TABLE` that matches.

    `reused`: the connection had sent a message before, or had been idle. `extended`: the refused command carried a
    parameter of an SMTP extension.
    """
    codes = f"{reply.code} {reply.enhanced or '-'}"
    for row in TABLE:
        if (
            phase in row.phases
            and row.codes.match(codes)
            and (row.text is None or row.text.search(reply.text))
            and (reused or not row.reused)
            and (extended or not row.extended)
        ):
            return row.verdict
    return SERVER


class ReplyRule(NamedTuple):
    """One row of `TABLE`: the replies it matches, and their verdict."""

    phases: frozenset[Phase]
    codes: re.Pattern[str]
    """matched from the start of ``550 5.1.1``, or of ``550 -`` if the reply has no enhanced code"""
    verdict: Verdict
    text: re.Pattern[str] | None = None
    """searched in the reply's text"""
    reused: bool = False
    """matches only on a connection that was used or idle before"""
    extended: bool = False
    """matches only a command with a parameter of an extension"""


def _row(
    phases: str, codes: str, verdict: Verdict, text: str = "", *, reused: bool = False, extended: bool = False
) -> ReplyRule:
    return ReplyRule(
        frozenset(map(Phase, phases.split())),
        re.compile(codes),
        verdict,
        re.compile(text, re.IGNORECASE) if text else None,
        reused,
        extended,
    )


_QUOTA_TEXT = r"\bdaily\b.*\b(quota|limit)|(sending|submission) ?(quota|limit)"
_RATE_TEXT = r"throttl|\brate\b|rate-?limit"

# The first match wins. Sources: RFC 5321 4.2.3, RFC 3463, RFC 4954 6, RFC 1870 6, and real replies of providers.
TABLE: tuple[ReplyRule, ...] = (
    _row("connect tls greeting ehlo", r"", SERVER),
    _row("auth", r"5", CONFIGURATION),
    _row("auth", r"", SERVER),
    _row("mail rcpt data dot", r"[45]\d\d (-|[45]\.[457]\.)", _QUOTA, _QUOTA_TEXT),
    _row("mail rcpt data dot", r"4\d\d 4\.(7\.28|3\.1)$", _THROTTLED),
    # A bare 421 about "too many messages" ends the connection and does not ask for a lower rate. A 4.2.x about a rate
    # concerns one recipient: Gmail's 450 4.2.1 limits the messages that this user may get.
    _row("mail rcpt data dot", r"421 4\.7\.", _THROTTLED, _RATE_TEXT),
    _row("mail rcpt data dot", r"4(?!21)\d\d (-|4\.[3457]\.)", _THROTTLED, rf"{_RATE_TEXT}|too (many|much)"),
    _row("mail", r"4|503", STALE, reused=True),
    _row("mail rcpt data dot", r"421|4\d\d 4\.3\.2$", SERVER),
    # Any other enhanced code, such as 501 5.1.3, means that the server did not object to the parameter.
    _row("mail rcpt", r"(500|501|502|504|555) (-|5\.5\.)", _CAPABILITY, extended=True),
    _row("mail rcpt data dot", r"5\d\d 5\.3\.4$|552 5\.2\.3$", _TOO_LARGE),
    _row("dot", r"552 -", _MAILBOX_FULL, r"mailbox|quota"),
    _row("mail data dot", r"552 -", _TOO_LARGE),
    _row("mail rcpt", r"5\d\d 5\.6\.7$", _BAD_ADDRESS),
    # Only the size in MAIL differs from event to event. A server that refuses MAIL for another reason refuses them all.
    _row("mail", r"5", CONFIGURATION),
    _row("mail", r"4", SERVER),
    _row("rcpt data dot", r"53[0458]", CONFIGURATION),
    _row("rcpt data dot", r"[45]\d\d [45]\.2\.2$", _MAILBOX_FULL),
    _row("rcpt data dot", r"5\d\d 5\.(1\.(1|2|3|6|10)|2\.1)$", _BAD_ADDRESS),
    _row("rcpt", r"552", _MAILBOX_FULL),
    _row("rcpt", r"[45]\d\d (-|[45]\.7\.)", _RELAY_DENIED, r"\brelay(ing)?\b(?!\.)|rcpthosts"),
    _row("rcpt", r"55[013] -", _BAD_ADDRESS, r"no such|unknown|not? exist|not found|no mailbox|invalid"),
    _row("rcpt", r"4\d\d 4\.(2\.0|7\.1)$", _GREYLISTED),
    _row("rcpt", r"4", _GREYLISTED, r"gr[ae]y-?list"),
    _row("rcpt", r"4", _RECIPIENT_DEFERRED),
    _row("rcpt", r"5", _RECIPIENT_REJECTED),
    # Amazon SES in its sandbox refuses every message. Without this row each event would fail for good.
    _row("dot", r"554 -", CONFIGURATION, r"address is not verified"),
    _row("data dot", r"4", _DEFERRED),
    _row("data dot", r"5", _REJECTED),
)

_LINE = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")
_ENHANCED = re.compile(r"([245])\.(\d{1,3}\.\d{1,3})(?=\s|$)")


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
