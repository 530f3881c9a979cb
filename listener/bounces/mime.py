"""The parts of an email from anywhere, with bounded work.

The parser of Python's `email` package takes time by the square of a long header or of deep nesting. So it reads headers
alone here, each cut. The parts are split here (RFC 2046 5.1.1).
"""

import re
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser, HeaderParser
from email.policy import Compat32

from listener.bounces.report import BadReport

# The status stands before the message that it returns, and pgherald's own messages are smaller.
MAX_BYTES = 1024 * 1024
# A forwarded report: mixed, rfc822, report, and the part with the status.
_MAX_DEPTH = 6
_MAX_PARTS = 60
_MAX_HEADER_CHARS = 2000
_MAX_HEADERS_BYTES = 200_000
_END_OF_HEADERS = re.compile(rb"\r?\n[ \t]*\r?\n")
MESSAGES = ("message/rfc822", "message/global")
STATUSES = ("message/delivery-status", "message/global-delivery-status")
COMPLAINT = "message/feedback-report"


@dataclass(frozen=True, slots=True)
class Part:
    """An email or a part of one. `kind` is its media type in lower case, and `body` its bytes as transferred."""

    headers: Message
    kind: str
    body: bytes


class _Cut(Compat32):
    """Cuts each header. A parameter behind the cut is lost, which makes the email unreadable at worst."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:_MAX_HEADER_CHARS]


_POLICY = _Cut()


def parse_headers(text: str) -> Message:
    """Return a block of header fields, such as one of a delivery status. The rest of the text is its payload."""
    return HeaderParser(policy=_POLICY).parsestr(text[:_MAX_HEADERS_BYTES], headersonly=True)


def parse_part(raw: bytes) -> Part:
    """Return an email or a part of one."""
    if raw.startswith((b"\n", b"\r\n")):
        head, body = b"", raw
    elif end := _END_OF_HEADERS.search(raw, 0, _MAX_HEADERS_BYTES):
        head, body = raw[: end.start()], raw[end.end() :]
    else:
        head, body = raw[:_MAX_HEADERS_BYTES], b""
    headers = BytesHeaderParser(policy=_POLICY).parsebytes(head + b"\n\n", headersonly=True)
    return Part(headers, headers.get_content_type(), body)


def octets_of(part: Part) -> bytes:
    """Return the body without its transfer encoding (RFC 2045 6). Octets that are invalid in it are left out."""
    message = Message(policy=_POLICY)
    message["Content-Transfer-Encoding"] = str(part.headers["Content-Transfer-Encoding"] or "7bit")
    message.set_payload(part.body.decode("ascii", "surrogateescape"))
    octets = message.get_payload(decode=True)
    return octets if isinstance(octets, bytes) else part.body


def text_of(part: Part) -> str:
    """Return the body as text, with LF as its line ends."""
    return octets_of(part).decode("utf-8", "replace").replace("\r\n", "\n")


def find_report(whole: Part) -> tuple[Part, list[Part]] | None:
    """Return the first status or complaint in an email, with the parts beside it. A forwarded email is searched too.

    Raises:
        BadReport: The email has too many parts, or is nested too deeply.
    """
    return _search([whole], 0, [_MAX_PARTS])


def _search(parts: list[Part], depth: int, left: list[int]) -> tuple[Part, list[Part]] | None:
    left[0] -= len(parts)
    if left[0] < 0 or depth > _MAX_DEPTH:
        raise BadReport("this email has too many parts, or is nested too deeply; nothing changed")
    # Before any forwarded message, because the message that a report returns may contain a report itself.
    for part in parts:
        if part.kind in (*STATUSES, COMPLAINT):
            return part, parts
    for part in parts:
        inner: list[Part] = []
        if part.kind.startswith("multipart/"):
            inner = _split(part)
        elif part.kind in MESSAGES:
            inner = [parse_part(octets_of(part))]
        if (found := _search(inner, depth + 1, left)) is not None:
            return found
    return None


def _split(part: Part) -> list[Part]:
    boundary = part.headers.get_boundary()
    if not boundary:
        return []
    mark = re.escape(boundary.encode("utf-8", "surrogateescape"))
    # The preamble comes before the first line of these, and the epilogue behind the one with two more hyphens.
    pieces = re.split(rb"(?:^|\r?\n)--" + mark + rb"(--)?[ \t]*(?=\r?\n|$)", part.body, maxsplit=_MAX_PARTS + 1)
    found = []
    for closing, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if closing:
            break
        found.append(parse_part(piece.removeprefix(b"\r").removeprefix(b"\n")))
    return found
