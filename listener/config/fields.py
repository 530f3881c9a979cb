"""What a setting may be: durations, rates, addresses, URLs, and what is said of one that is not."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BeforeValidator, Field

from listener.address import Address, Mailbox, parse_address, parse_mailbox
from listener.errors import BadData
from listener.recipients import parse_allowed

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> object:
    """Seconds of ``10s``, ``5m``, ``12h``, ``30d``."""
    if isinstance(value, str):
        if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value):
            return float(match[1]) * _UNITS[match[2]]
        raise ValueError(f"{value!r} is no duration; write 10s, 5m, 12h or 30d")
    raise ValueError("write a duration with its unit: 10s, 5m, 12h or 30d")


def _off(value: object) -> object:
    return None if value == "off" else parse_duration(value)


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is a number")
    return value


Count = Annotated[int, BeforeValidator(_no_truth)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
DurationOrOff = Annotated[float | None, BeforeValidator(_off)]
RateOrOff = Annotated[
    Annotated[float, Field(ge=0.001, le=100_000)] | None,
    BeforeValidator(lambda value: None if value == "off" else value),
]


def _base_url(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value
    form = "write https://app.example.org, or with a path: https://example.org/app"
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        raise ValueError(form) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not re.fullmatch(r"[!-~]{1,200}", value)
        or re.search(r"[?#<>\"'\\]", value)
    ):
        raise ValueError(form)
    return value.rstrip("/")


# With a path or without, never with a / at its end.
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


_ESCAPES = "write @ : / ? # in a password as %40 %3A %2F %3F %23"


def _conninfo(value: object) -> object:
    """Refuse what libpq would not understand, or would take a piece of the password in for a host or a database.

    libpq's own words of such a string repeat it, and those of a connection that fails repeat the host.
    """
    if isinstance(value, str):
        try:
            ports = str(conninfo_to_dict(value).get("port") or "")
        except (psycopg.Error, UnicodeError):
            raise ValueError(
                f"is not a connection string; write postgresql://user:secret@host:5432/database; {_ESCAPES}"
            ) from None
        if not re.fullmatch(r"[\d,\s]*", ports):
            raise ValueError(f"the port must be a number; {_ESCAPES}")
        # libpq ends the password at the first @, and where a / comes before that there is none.
        if re.match(r"postgres(?:ql)?://(?:[^@/]*@)?+[^@?]*@", value):
            raise ValueError(f"has more than one @, or an @ after a /; {_ESCAPES}")
    return value


Conninfo = Annotated[str, BeforeValidator(_conninfo)]


def _mailbox(value: object) -> object:
    return parse_mailbox(value) if isinstance(value, str) else value


def _address(value: object) -> object:
    try:
        return parse_address(value) if isinstance(value, str) else value
    except BadData as exc:
        raise ValueError(f"{value!r}: {exc}") from None


def _allowed(value: object) -> object:
    """A list; in the environment, with commas between."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return items
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError('write addresses and domains: ["@example.org", "jane@example.com"]')
    try:
        return tuple(parse_allowed(item) for item in items)
    except BadData as exc:
        raise ValueError(f"{', '.join(items)!r}: {exc}; write @example.org or jane@example.com") from None


MailboxText = Annotated[Mailbox, BeforeValidator(_mailbox)]
AddressText = Annotated[Address, BeforeValidator(_address)]
Allowed = Annotated[tuple[str, ...] | None, BeforeValidator(_allowed)]


def _names(value: object) -> object:
    return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


@dataclass(frozen=True, slots=True)
class SmtpUrl:
    """Where `smtp.url` leads."""

    host: str
    port: int
    security: Literal["starttls", "tls", "off"]
    username: str | None
    password: str | None = field(repr=False)


def parse_listen(value: str) -> tuple[str, int] | None:
    """``127.0.0.1:9599``, ``[::1]:9599``, or ``off``, which is None. Port 0 is any that is free."""
    if value == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{value!r} is no address; write 127.0.0.1:9599, 0.0.0.0:9599, [::]:9599, or off")
    return match[1] or match[2], int(match[3])


def parse_smtp_url(url: str) -> SmtpUrl:
    """Read ``smtp://``, which demands STARTTLS but on loopback or with ``?starttls=off``, or ``smtps://``: TLS from the start.

    Raises:
        ValueError: with a sentence that repeats nothing of the URL, since any part of it may be a piece of the password.
    """
    form = f"write smtp://user:secret@host:587 or smtps://user:secret@host:465; {_ESCAPES}"
    # `urlsplit` takes out some of them without a word, and the password would be another.
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", url):
        raise ValueError(
            "has a control character, a line break or a byte that is not UTF-8; write it as %09 or %0A in a password, or "
            "take it out"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"is not a URL; {form}") from None
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the port must be a number from 1 to 65535; {_ESCAPES}") from None
    query = parse_qs(parts.query, keep_blank_values=True)
    starttls = query.pop("starttls", ["required"])[-1]
    if parts.scheme not in ("smtp", "smtps") or parts.path not in ("", "/") or query or parts.fragment:
        raise ValueError(form)
    host = parts.hostname
    if not host or not _HOST.fullmatch(parts.netloc.rpartition("@")[2]):
        raise ValueError(f"the host must be a name or an address; {form}")
    if port == 0:
        raise ValueError(f"the port must be a number from 1 to 65535; {_ESCAPES}")
    if starttls not in ("required", "off"):
        raise ValueError("starttls is required or off")
    if parts.scheme == "smtps" and "starttls" in parts.query:
        raise ValueError("smtps:// is TLS from the start; starttls goes with smtp://")
    security: Literal["starttls", "tls", "off"]
    if parts.scheme == "smtps":
        security = "tls"
    elif starttls == "off" or (host in LOOPBACK and "starttls" not in parts.query):
        security = "off"
    else:
        security = "starttls"
    try:
        username, password = (
            unquote(part, errors="strict") or None for part in (parts.username or "", parts.password or "")
        )
    except UnicodeDecodeError:
        raise ValueError("a %XX in the user or the password is not UTF-8; write a % as %25") from None
    return SmtpUrl(
        host=host,
        port=port or {"tls": 465, "starttls": 587, "off": 25}[security],
        security=security,
        username=username,
        password=password,
    )


# A name, of any script, or an address in its brackets, and a port: `urlsplit` overlooks what stands after the brackets.
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::\d*)?")
