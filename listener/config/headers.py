"""The header fields that the operator adds to every message: ``[mail.headers]`` and ``mail.idempotency_header``."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

# RFC 5322 3.6.8: the characters of a field name. The length is our own bound: with it, no line exceeds 998 octets.
_NAME = re.compile(r"[!-9;-~]{1,64}")
# The fields that pgherald makes, those that mail servers and signers add, and those in which some servers read a
# recipient. A second one would make the message ambiguous or its signature invalid (RFC 5322 3.6, RFC 6376 8.15).
_RESERVED = re.compile(
    r"from|sender|reply-to|to|cc|bcc|subject|date|message-id|mime-version|content-.*|resent-.*"
    r"|list-unsubscribe|list-unsubscribe-post|auto-submitted|x-auto-response-suppress"
    r"|return-path|received|received-spf|delivered-to|apparently-to|x-original-to"
    r"|dkim-signature|domainkey-signature|arc-.*|authentication-results",
    re.IGNORECASE,
)
_OWN_KEYS = {
    "from": "from, or from_address of a rule",
    "reply-to": "reply_to",
    "return-path": "envelope_from",
    "list-unsubscribe": "unsubscribe_mailto",
}
# A line is folded at its spaces only. RFC 5322 2.1.1 allows it 998 octets, with the name.
_MAX_WORD_CHARS = 900
# Sendmail refuses a message with more than 32,768 octets of header fields. The rest is for ours and for those of relays.
_MAX_HEADERS_CHARS = 20_000


def fold_points(value: str) -> list[str]:
    """Return the pieces of a value between which a line may be folded: at spaces, and never before another space.

    Joined with a space, they are the value again. A line of white space alone would end the header for some servers.
    """
    return re.split(r" (?=[^ ])", value)


def check_name(name: str) -> str:
    """Return the name of a header field that the operator may add.

    Raises:
        ValueError: The name is invalid (RFC 5322 3.6.8), or belongs to a field that pgherald or a mail server adds.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "is not the name of a header; write up to 64 letters, digits and hyphens, such as X-Pgherald-Key"
        )
    if _RESERVED.fullmatch(name):
        key = _OWN_KEYS.get(name.lower())
        raise ValueError(
            "pgherald or a mail server sets this header; " + (f"use [mail] {key}" if key else "remove it from here")
        )
    return name


def _check_value(value: str) -> str:
    value = value.strip(" ")
    if not value:
        raise ValueError("is empty; write a value, or remove the header")
    if not value.isascii():
        raise ValueError(r"is not ASCII; write \u00fc in JSON, and other text as an encoded word (RFC 2047)")
    if not value.isprintable():
        raise ValueError("has a line break or another control character; write the value on one line")
    if max(map(len, fold_points(value))) > _MAX_WORD_CHARS:
        raise ValueError(
            f"has more than {_MAX_WORD_CHARS} characters without a space, which cannot be folded; shorten it, or add spaces"
        )
    return value


def _read_lines(value: object) -> object:
    """Read the headers of the environment: ``Name: value``, one a line."""
    if not isinstance(value, str):
        return value
    headers: dict[str, str] = {}
    for line in value.split("\n"):
        if not line.strip():
            continue
        name, colon, text = line.partition(":")
        if not colon:
            raise ValueError("has a line without a colon; write Name: value, one header a line")
        if name in headers:
            raise ValueError(f"has {name} twice; remove one")
        headers[name] = text.strip()
    return headers


def check_together(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers, whose names differ and which are not too long together.

    Raises:
        ValueError: Two are the same header, or they exceed the limit.
    """
    if same := duplicates(headers):
        raise ValueError(f"{' and '.join(same)} are the same header; remove one")
    if (size := sum(len(name) + len(value) for name, value in headers.items())) > _MAX_HEADERS_CHARS:
        raise ValueError(f"have {size} characters together; at most {_MAX_HEADERS_CHARS} are allowed")
    return headers


def duplicates(names: Iterable[str]) -> list[str]:
    """Return the first names that are the same header, because they differ only in case (RFC 5322 1.2.2)."""
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault(name.lower(), []).append(name)
    return next((same for same in seen.values() if len(same) > 1), [])


HeaderName = Annotated[str, AfterValidator(check_name)]
Headers = Annotated[
    dict[HeaderName, Annotated[str, AfterValidator(_check_value)]],
    BeforeValidator(_read_lines),
    AfterValidator(check_together),
]
