"""Content becomes bytes: headers, a text and an HTML part, CRLF. The same input gives the same bytes, always.

Text from a row never passes through the `email` package: its header code has let such text write headers
(CVE-2024-6923), and it takes twenty times as long. The tests read every message back with it instead.
"""

import base64
import re
from binascii import b2a_qp
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

from listener.address import Address, Mailbox
from listener.errors import BadData
from listener.limits import MAX_MESSAGE_BYTES

MAX_SUBJECT = 200

_LINE = 76  # RFC 2047 2 for a header line that holds an encoded word; RFC 5322 2.1.1 has 78 for the others
_WRAPPING = len("=?utf-8?q??=")


@dataclass(frozen=True, slots=True)
class Content:
    """What a mail says, before anything is encoded; without `html` it is a text mail."""

    subject: str
    text: str
    html: str | None


@dataclass(frozen=True, slots=True)
class MessageDefaults:
    """What every mail has in common. `headers` are the operator's own, the same on each.

    Raises `ValueError` for a header that is not the operator's to set, or that cannot be one.
    """

    sender: Mailbox
    idempotency_header: str = "X-Pgherald-Key"
    reply_to: Mailbox | None = None
    headers: tuple[tuple[str, str], ...] = ()
    _from: str = field(init=False, repr=False, compare=False)
    _rest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (self.idempotency_header, *(name for name, _ in self.headers)):
            _check_header_name(name)
        own = {name.lower() for name, _ in self.headers}
        if self.idempotency_header.lower() in own:
            raise ValueError(f"the header {self.idempotency_header} carries the event's key, and is set as well")
        kept = [header for header in _AUTOMATIC if header[0].lower() not in own]
        rest = ["MIME-Version: 1.0", *(_unstructured(name, value) for name, value in (*kept, *self.headers))]
        if self.reply_to:
            rest.insert(0, _originator("Reply-To", self.reply_to))
        lines = "\r\n".join(rest)
        if len(max(lines.encode().split(b"\r\n"), key=len)) > 998:
            raise ValueError("a header has a line of more than 998 octets that cannot be folded")
        object.__setattr__(self, "_from", _originator("From", self.sender))
        object.__setattr__(self, "_rest", lines)


def message_id(secret: bytes, rule: str, event_id: int, captured_at: datetime) -> str:
    """The event's name in the world: 26 of ``[a-z2-7]``, always the same, telling nothing without the secret.

    No colon: Gmail refuses a Message-ID that has one. The time keeps two events apart that got the same id,
    before and after a database was restored.
    """
    if len(secret) > blake2b.MAX_KEY_SIZE:
        secret = blake2b(secret).digest()
    event = f"{rule}\0{event_id}\0{_utc(captured_at).isoformat(timespec='microseconds')}"
    digest = blake2b(event.encode(), key=secret, digest_size=16, person=b"pgherald.message").digest()
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()


def build(
    defaults: MessageDefaults,
    content: Content,
    recipient: Address,
    key: str,
    date: datetime,
    *,
    unsubscribe: str | None = None,
    original_recipient: Address | None = None,
) -> bytes:
    """Make the whole message (RFC 5322), ended by CRLF and not dot-stuffed.

    `date` is the change's, not the sending's, so that a second sending has the same bytes. `unsubscribe` is
    the URL of RFC 8058; `instead_of`, whom a staging system did not write to. Raises `BadData` (``too_large``) for the content, `ValueError` for anything else.
    """
    # Before the work: encoded it is never much smaller, and what was made of one row's text may be gigabytes.
    _check_size(len(content.text) + len(content.html or ""))
    if not _KEY.fullmatch(key):
        raise ValueError("the key is not made of [a-z0-9.-]")
    lines = [
        defaults._from,
        f"To: {recipient}",
        _unstructured("Subject", _one_line(content.subject)[:MAX_SUBJECT]),
        f"Date: {_rfc5322(date)}",
        f"Message-ID: <{key}@{defaults.sender.address.domain}>",
        defaults._rest,
        f"{defaults.idempotency_header}: {key}",
        *_unsubscribe(unsubscribe),
        *([] if original_recipient is None else [_unstructured("X-Original-To", original_recipient.masked)]),
    ]
    head = "".join(f"{line}\r\n" for line in lines).encode()
    body = _part("plain", content.text)
    if content.html is not None:
        body = _alternative(key.encode("ascii"), body, _part("html", content.html))
    _check_size(len(head) + len(body))
    return head + body


_KEY = re.compile(r"[a-z0-9.-]{1,64}")
_URL = re.compile(r"https?://[!#-;=?-~]{1,900}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,40}")
_RESERVED = re.compile(
    r"from|sender|reply-to|to|cc|bcc|subject|date|message-id|mime-version|content-.*"
    r"|return-path|received|x-original-to|list-unsubscribe|list-unsubscribe-post",
    re.IGNORECASE,
)
# RFC 3834 5, and what Exchange looks at. Not "All": that would suppress reports of failed deliveries too.
_AUTOMATIC = (
    ("Auto-Submitted", "auto-generated"),
    ("X-Auto-Response-Suppress", "OOF, AutoReply, RN, NRN"),
)


def _check_header_name(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no header name: up to 40 letters, digits and hyphens")
    if _RESERVED.fullmatch(name):
        raise ValueError(f"the header {name} is made by pgherald itself and cannot be set")


def _check_size(octets: int) -> None:
    if octets > MAX_MESSAGE_BYTES:
        raise BadData("too_large", f"the message has {octets} octets or more; at most {MAX_MESSAGE_BYTES} are sent")


def _unsubscribe(url: str | None) -> Iterator[str]:
    if url is None:
        return
    if not _URL.fullmatch(url):
        raise ValueError("the URL to unsubscribe is none, or too long")
    yield f"List-Unsubscribe: <{url}>"
    if url.startswith("https:"):  # RFC 8058 3.1 asks for it
        yield "List-Unsubscribe-Post: List-Unsubscribe=One-Click"


_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _rfc5322(date: datetime) -> str:
    date = _utc(date)
    day = f"{_WEEKDAYS[date.weekday()]}, {date.day:02} {_MONTHS[date.month - 1]} {date.year:04}"
    return f"{day} {date.hour:02}:{date.minute:02}:{date.second:02} +0000"


def _utc(moment: datetime) -> datetime:
    # A naive one would be taken for local time, and the bytes would depend on the machine.
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    return moment.astimezone(UTC)


# Headers. White space of any kind becomes one space; controls, bidi controls and lone surrogates go.
_WHITE = re.compile("[\t-\r\x1c-\x20\x85\u2028\u2029]+")
_DROPPED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")

# RFC 2047 5 (3): the only characters that may stand for themselves in a display name too.
_Q = {chr(octet): f"={octet:02X}" for octet in range(0x20, 0x7F)}
_Q |= {char: char for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"}
_Q |= {" ": "_"}


def _one_line(text: str) -> str:
    return _WHITE.sub(" ", _DROPPED.sub("", text)).strip(" ")


def _is_plain(text: str) -> bool:
    """Whether it can stand in a header as it is: what looks like an encoded word would be decoded."""
    return text.isascii() and "=?" not in text


# A rule's subject is mostly the same on each of its mails.
@lru_cache(maxsize=256)
def _unstructured(header: str, value: str) -> str:
    value = _one_line(value)
    return _folded(header, value if _is_plain(value) else _encoded_words(header, value))


def _originator(header: str, mailbox: Mailbox) -> str:
    name = _one_line(mailbox.name)
    if not name:
        return f"{header}: {mailbox.address}"
    if not _is_plain(name):
        name = _encoded_words(header, name)
    elif not _PHRASE.fullmatch(name):
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return _folded(header, f"{name} <{mailbox.address}>")


def _encoded_words(header: str, text: str) -> str:
    """RFC 2047; no character is cut in two. Q and not B, because a person can read it in a log."""
    words = [""]
    room = _LINE - len(f"{header}: ") - _WRAPPING
    for char in text:
        piece = _Q.get(char) or "=" + char.encode().hex("=").upper()
        if len(words[-1]) + len(piece) > room:
            words.append("")
        words[-1] += piece
    return " ".join(f"=?utf-8?q?{word}?=" for word in words)


def _folded(header: str, value: str) -> str:
    """The header in lines, broken at spaces; never right after its name, which some receivers misread."""
    first, *words = value.split(" ")
    lines = [f"{header}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _LINE:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)


# Bodies.
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_TOO_LONG = re.compile(rb"^(.{74})(=20|=09)(?=\r$)", re.MULTILINE)


def _alternative(key: bytes, text: bytes, html: bytes) -> bytes:
    # "=_" cannot occur in quoted-printable, so no content can hold the boundary.
    return (
        b'Content-Type: multipart/alternative;\r\n boundary="=_%b"\r\n\r\n'
        b"--=_%b\r\n%b\r\n--=_%b\r\n%b\r\n--=_%b--\r\n" % (key, key, text, key, html, key)
    )


def _part(subtype: str, text: str) -> bytes:
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    return head.encode("ascii") + _quoted_printable(text)


def _quoted_printable(text: str) -> bytes:
    """RFC 2045 6.7, in lines of at most 76; the text's lines end in CRLF, the last one too."""
    octets = text.encode("utf-8", "ignore").translate(None, _CONTROLS)  # "ignore" drops lone surrogates
    octets = _C1.sub(b"", octets)
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not octets.endswith(b"\n"):
        octets += b"\n"
    # b2a_qp breaks lines with what ends the first line it is given.
    encoded = b2a_qp(octets.replace(b"\n", b"\r\n"))
    # It leaves two flaws: white space at the end of a line may take it to 77, and a dot may stand alone after
    # a soft break. (The first is looked for only where it can be: the search takes as long as the encoding.)
    if b" \n" in octets or b"\t\n" in octets:
        encoded = _TOO_LONG.sub(rb"\1=\r\n\2", encoded)
    return encoded.replace(b"\r\n.\r\n", b"\r\n=2E\r\n")
