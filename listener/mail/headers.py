"""Header fields as bytes of a message need them: one line of text each, encoded (RFC 2047) and folded (RFC 5322).

Text from a row never passes through the `email` package. Its header code has let such text write headers of its own
(CVE-2024-6923), and it takes twenty times as long. The tests read every message back with that package instead.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from listener.address import Mailbox
from listener.config.headers import fold_points

# RFC 2047 2: the longest line with an encoded word. RFC 5322 2.1.1 recommends at most 78 for other lines.
_MAX_LINE_CHARS = 76
_ENCODED_WORD_CHARS = len("=?utf-8?q??=")

_URL = re.compile(r"(?:https?://|mailto:)[!#-;=?-~]{1,900}")

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# White space of any kind becomes one space. Controls, bidirectional controls and lone surrogates are removed.
_WHITE_SPACE = re.compile("[\t-\r\x1c-\x20\x85\u2028\u2029]+")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")

# RFC 2047 5 (3): the only characters that may stand for themselves in a display name too.
_Q_ENCODING = {chr(octet): f"={octet:02X}" for octet in range(0x20, 0x7F)}
_Q_ENCODING |= {char: char for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"}
_Q_ENCODING |= {" ": "_"}


def one_line(text: str) -> str:
    """Return the text as one line, without characters that are invisible or change the direction of writing."""
    return _WHITE_SPACE.sub(" ", _REMOVED.sub("", text)).strip(" ")


# The subject of a rule is mostly the same in all its messages.
@lru_cache(maxsize=256)
def unstructured(name: str, value: str) -> str:
    """Return a header field with free text (RFC 5322 2.2.1), encoded if necessary, without the final CRLF."""
    value = one_line(value)
    return folded(name, value if _is_plain(value) else _encoded_words(name, value))


# The names and the answers' addresses of a rule's rows are mostly few.
@lru_cache(maxsize=256)
def originators(name: str, *mailboxes: Mailbox) -> str:
    """Return a header field such as From or Reply-To, with its mailboxes (RFC 5322 3.6.2), without the final CRLF."""
    return folded(name, ", ".join(_written(name, mailbox) for mailbox in mailboxes))


def list_unsubscribe(urls: Sequence[str]) -> Iterator[str]:
    """Yield the header fields to unsubscribe by one of `urls` (RFC 2369 3.2), by one click if one is https (RFC 8058).

    Raises:
        ValueError: A URL is invalid or too long.
    """
    if not urls:
        return
    if not all(map(_URL.fullmatch, urls)):
        raise ValueError("invalid unsubscribe URL; it must be http, https or mailto, and at most 900 characters long")
    # One URL a line, since a line may have at most 998 octets (RFC 5322 2.1.1).
    yield "List-Unsubscribe: " + ",\r\n ".join(f"<{url}>" for url in urls)
    # RFC 8058 3.1 requires https for one click.
    if any(url.startswith("https:") for url in urls):
        yield "List-Unsubscribe-Post: List-Unsubscribe=One-Click"


def utc(moment: datetime) -> datetime:
    """Return the time in UTC.

    Raises:
        ValueError: The time has no time zone. It would be taken for local time, and the bytes of the message would
            depend on the machine.
    """
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    return moment.astimezone(UTC)


def date_time(moment: datetime) -> str:
    """Return the time as the Date header writes it (RFC 5322 3.3), in UTC and independent of the locale."""
    moment = utc(moment)
    day = f"{_WEEKDAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04}"
    return f"{day} {moment.hour:02}:{moment.minute:02}:{moment.second:02} +0000"


def folded(name: str, value: str) -> str:
    """Return the header field in lines, broken at spaces. Never break after the name: some receivers misread that.

    The value is ASCII, and goes into the message as it is.
    """
    first, *words = fold_points(value)
    lines = [f"{name}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _MAX_LINE_CHARS:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)


def _written(name: str, mailbox: Mailbox) -> str:
    display_name = one_line(mailbox.name)
    if not display_name:
        return str(mailbox.address)
    if not _is_plain(display_name):
        display_name = _encoded_words(name, display_name)
    elif not _PHRASE.fullmatch(display_name):
        display_name = '"' + re.sub(r'(["\\])', r"\\\1", display_name) + '"'
    return f"{display_name} <{mailbox.address}>"


def _is_plain(text: str) -> bool:
    """Return whether the text can stand in a header as it is. Text like ``=?…?=`` cannot: readers would decode it."""
    return text.isascii() and "=?" not in text


def _encoded_words(name: str, text: str) -> str:
    """Return the text as encoded words (RFC 2047). No character is split, and Q stays readable in a log."""
    words = [""]
    room = _MAX_LINE_CHARS - len(f"{name}: ") - _ENCODED_WORD_CHARS
    for char in text:
        piece = _Q_ENCODING.get(char) or "=" + char.encode().hex("=").upper()
        if len(words[-1]) + len(piece) > room:
            words.append("")
        words[-1] += piece
    return " ".join(f"=?utf-8?q?{word}?=" for word in words)
