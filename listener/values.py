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
from listener.guard import parse_allowed

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
    parts = urlsplit(value)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not re.fullmatch(r"[!-~]{1,200}", value)
        or re.search(r"[?#<>\"'\\]", value)
    ):
        raise ValueError("write https://app.example.org, or with a path: https://example.org/app")
    return value.rstrip("/")


# With a path or without, never with a / at its end.
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


def _conninfo(value: object) -> object:
    """libpq's own words of a string that it cannot read repeat it, with the password."""
    if isinstance(value, str):
        try:
            ports = str(conninfo_to_dict(value).get("port") or "")
        except psycopg.Error:
            raise ValueError("is no connection string; write postgresql://user:secret@host:5432/database") from None
        if not re.fullmatch(r"[\d,\s]*", ports):
            raise ValueError("the port is no number; write @ : / ? # in a password as %40 %3A %2F %3F %23")
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
class SmtpServer:
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


def parse_smtp_url(url: str) -> SmtpServer:
    """``smtp://`` demands STARTTLS, but on loopback or with ``?starttls=off``; ``smtps://`` is TLS from the start."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    starttls = query.pop("starttls", ["required"])[-1]
    if (
        parts.scheme not in ("smtp", "smtps")
        or not parts.hostname
        or parts.path not in ("", "/")
        or query
        or parts.fragment
    ):
        raise ValueError("write smtp://user:secret@host:587 or smtps://user:secret@host:465")
    if starttls not in ("required", "off"):
        raise ValueError("starttls is required or off")
    try:
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"the port is wrong: {exc}") from exc
    if port == 0:
        raise ValueError("the port is wrong: 0")
    if parts.scheme == "smtps" and "starttls" in parts.query:
        raise ValueError("smtps:// is TLS from the start; starttls goes with smtp://")
    security: Literal["starttls", "tls", "off"]
    if parts.scheme == "smtps":
        security = "tls"
    elif starttls == "off" or (parts.hostname in LOOPBACK and "starttls" not in parts.query):
        security = "off"
    else:
        security = "starttls"
    return SmtpServer(
        host=parts.hostname,
        port=port or {"tls": 465, "starttls": 587, "off": 25}[security],
        security=security,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
