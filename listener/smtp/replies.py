"""What a server's reply means for the event, for the connection and for the queue.

The basic code decides, the enhanced code refines it, and an unknown detail counts as its class (RFC 3463 2,
RFC 5321 4.3.2). Two things hold for every row of the table: trouble with the server burns nobody's attempt, and
nothing that is the same for all mail (the sender, the password, the right to relay) ever fails one of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from listener.address import mask


class Phase(StrEnum):
    """Where in the conversation something happened; the names are those of metrics and histories."""

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
    """Whose trouble it is."""

    server = "server"
    configuration = "configuration"
    stale = "stale"
    throttle = "throttle"
    quota = "quota"
    recipient = "recipient"
    message = "message"
    capability = "capability"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply (RFC 5321 4.2), its text in one line, masked and cut; `enhanced` as in RFC 2034, or None."""

    code: int
    enhanced: str | None
    text: str

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Self:
        """Read the lines of one reply, without their ends. Raises `ValueError` if they are none."""
        code = lines[-1][:3]
        for line in lines:
            if not _LINE.match(line) or line[:3] != code:
                raise ValueError(f"not an SMTP reply: {mask(_decode(line))}")
        return cls.of(int(code), [_decode(line[4:]) for line in lines])

    @classmethod
    def of(cls, code: int, texts: Sequence[str]) -> Self:
        """Make one from its code and the text of each line. An enhanced code of another class is only text."""
        found = _ENHANCED.match(texts[-1])
        if found is None or found[1] != str(code)[0]:
            return cls(code, None, mask(" ".join(texts).strip()))
        enhanced = f"{found[1]}.{found[2]}"
        return cls(code, enhanced, mask(" ".join(text.removeprefix(enhanced).strip() for text in texts)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure.

    `permanent`: trying again would not help. `reason`: the one word the outbox keeps. `counts`: it burns one of
    the event's attempts. `delay`: seconds before the first retry, where the reply suggests them.
    """

    scope: Scope
    permanent: bool
    reason: str
    uses_attempt: bool
    delay: float | None = None


SERVER = Verdict(Scope.server, permanent=False, reason="server", uses_attempt=False)
CONFIGURATION = Verdict(Scope.configuration, permanent=False, reason="configuration", uses_attempt=False)
STALE = Verdict(Scope.stale, permanent=False, reason="stale", uses_attempt=False, delay=0.0)
_THROTTLED = Verdict(Scope.throttle, permanent=False, reason="throttled", uses_attempt=False, delay=5.0)
_QUOTA = Verdict(Scope.quota, permanent=False, reason="quota", uses_attempt=False, delay=600.0)
_CAPABILITY = Verdict(Scope.capability, permanent=False, reason="capability", uses_attempt=False, delay=0.0)
_BAD_ADDRESS = Verdict(Scope.recipient, permanent=True, reason="bad_address", uses_attempt=True)
_MAILBOX_FULL = Verdict(Scope.recipient, permanent=False, reason="mailbox_full", uses_attempt=True, delay=3600.0)
_GREYLISTED = Verdict(Scope.recipient, permanent=False, reason="greylisted", uses_attempt=True, delay=300.0)
# Not permanent: three recipients in a row mean that nobody is relayed for, and the first two must not be lost
# to that.
_RELAY_DENIED = Verdict(Scope.recipient, permanent=False, reason="relay_denied", uses_attempt=True)
_RECIPIENT_DEFERRED = Verdict(Scope.recipient, permanent=False, reason="deferred", uses_attempt=True, delay=300.0)
_RECIPIENT_REJECTED = Verdict(Scope.recipient, permanent=True, reason="rejected", uses_attempt=True)
_TOO_LARGE = Verdict(Scope.message, permanent=True, reason="too_large", uses_attempt=True)
_DEFERRED = Verdict(Scope.message, permanent=False, reason="deferred", uses_attempt=True)
_REJECTED = Verdict(Scope.message, permanent=True, reason="rejected", uses_attempt=True)


def classify(phase: Phase, reply: Reply, *, reused: bool, extended: bool = False) -> Verdict:
    """Say what a refusal means.

    `reused`: the connection had been used, or had lain idle, before this hand-over. `extended`: the refused command
    carried a parameter of an extension.
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


class Row(NamedTuple):
    """`codes` is matched from the start of ``550 5.1.1``, or ``550 -`` where there is no enhanced code."""

    phases: frozenset[Phase]
    codes: re.Pattern[str]
    verdict: Verdict
    text: re.Pattern[str] | None = None
    reused: bool = False
    extended: bool = False


def _row(
    phases: str, codes: str, verdict: Verdict, text: str = "", *, reused: bool = False, extended: bool = False
) -> Row:
    return Row(
        frozenset(map(Phase, phases.split())),
        re.compile(codes),
        verdict,
        re.compile(text, re.IGNORECASE) if text else None,
        reused,
        extended,
    )


_QUOTA_TEXT = r"\bdaily\b.*\b(quota|limit)|(sending|submission) ?(quota|limit)"
_RATE_TEXT = r"throttl|\brate\b|rate-?limit"

# First match wins. Sources: RFC 5321 4.2.3, RFC 3463, RFC 4954 6, RFC 1870 6, and what providers really say.
TABLE: tuple[Row, ...] = (
    _row("connect tls greeting ehlo", r"", SERVER),
    _row("auth", r"5", CONFIGURATION),
    _row("auth", r"", SERVER),
    _row("mail rcpt data dot", r"[45]\d\d (-|[45]\.[457]\.)", _QUOTA, _QUOTA_TEXT),
    _row("mail rcpt data dot", r"4\d\d 4\.(7\.28|3\.1)$", _THROTTLED),
    # A bare 421 about "too many messages" ends a connection, it asks for no slower rate. And a 4.2.x about a
    # rate is the recipient's own: Gmail's 450 4.2.1 says how much that one user may get.
    _row("mail rcpt data dot", r"421 4\.7\.", _THROTTLED, _RATE_TEXT),
    _row("mail rcpt data dot", r"4(?!21)\d\d (-|4\.[3457]\.)", _THROTTLED, rf"{_RATE_TEXT}|too (many|much)"),
    _row("mail", r"4|503", STALE, reused=True),
    _row("mail rcpt data dot", r"421|4\d\d 4\.3\.2$", SERVER),
    # With any other enhanced code (501 5.1.3, say) it was not the parameter that displeased.
    _row("mail rcpt", r"(500|501|502|504|555) (-|5\.5\.)", _CAPABILITY, extended=True),
    _row("mail rcpt data dot", r"5\d\d 5\.3\.4$|552 5\.2\.3$", _TOO_LARGE),
    _row("dot", r"552 -", _MAILBOX_FULL, r"mailbox|quota"),
    _row("mail data dot", r"552 -", _TOO_LARGE),
    _row("mail rcpt", r"5\d\d 5\.6\.7$", _BAD_ADDRESS),
    # Nothing in MAIL is the event's own but the size: whatever refuses it refuses every event.
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
    # Amazon SES in its sandbox: every mail would fail, and none for its own fault.
    _row("dot", r"554 -", CONFIGURATION, r"address is not verified"),
    _row("data dot", r"4", _DEFERRED),
    _row("data dot", r"5", _REJECTED),
)

_LINE = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")
_ENHANCED = re.compile(r"([245])\.(\d{1,3}\.\d{1,3})(?=\s|$)")


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")
