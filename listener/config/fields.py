"""The types of settings: durations, rates, addresses, URLs. Each says in its error what to write instead."""

import base64
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field

from listener.address import Address, Mailbox, parse_address, parse_mailbox
from listener.errors import BadData
from listener.recipients import parse_allowed
from listener.smtp.server import is_ehlo_name

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_PORT = 65535
# A URL goes into links of emails. Longer ones are cut by some mail programs.
MAX_BASE_URL_CHARS = 200


def parse_duration(value: object) -> object:
    """Return the seconds of ``10s``, ``5m``, ``12h``, ``30d`` or ``250ms``.

    Raises:
        ValueError: the value is not text, or has no unit.
    """
    if isinstance(value, str):
        if match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value):
            return float(match[1]) * _SECONDS[match[2]]
        raise ValueError(f"{value!r} is not a duration; write 10s, 5m, 12h or 30d")
    raise ValueError("must be a duration with its unit, in quotes; write 10s, 5m, 12h or 30d")


def at_least(text: str) -> AfterValidator:
    """Return a validator that refuses durations below `text`, such as ``50ms``."""
    minimum = float(str(parse_duration(text)))

    def check(value: float) -> float:
        if value < minimum:
            raise ValueError(f"must be at least {text}")
        return value

    return AfterValidator(check)


def _duration_or_off(value: object) -> object:
    return None if value == "off" else parse_duration(value)


def _reject_boolean(value: object) -> object:
    # Python's `True` is an `int`, so pydantic would take it for 1.
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    return value


def _number_or_off(value: object) -> object:
    return None if value == "off" else _reject_boolean(value)


Count = Annotated[int, BeforeValidator(_reject_boolean)]
CountOrOff = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_number_or_off)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
DurationOrOff = Annotated[float | None, BeforeValidator(_duration_or_off)]
DoubtPolicy = Literal["resend", "hold"]
RateOrOff = Annotated[Annotated[float, Field(ge=0.001, le=100_000)] | None, BeforeValidator(_number_or_off)]


def _split(url: str, problem: str) -> SplitResult:
    """Return the parts of a URL. A `ValueError` says `problem`."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError if the port is not a number
    except ValueError:
        raise ValueError(problem) from None
    return parts


def _base_url(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value
    problem = "is not an http or https URL; write https://app.example.org, or with a path: https://example.org/app"
    parts = _split(value, problem)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not re.fullmatch(rf"[!-~]{{1,{MAX_BASE_URL_CHARS}}}", value)
        or re.search(r"[?#<>\"'\\]", value)
    ):
        raise ValueError(problem)
    return value.rstrip("/")


def _token_url(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value
    problem = "is not the https URL of a token endpoint; write https://oauth2.googleapis.com/token"
    parts = _split(value, problem)
    # A request carries the client's secret, so it leaves this host over TLS only.
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not is_safe or not parts.hostname or "@" in parts.netloc or not re.fullmatch(r"[!-~]+", value) or "#" in value:
        raise ValueError(problem)
    return value


TokenUrl = Annotated[str, BeforeValidator(_token_url)]


# With a path or without one. The validator removes a / at the end.
BaseUrl = Annotated[str, BeforeValidator(_base_url)]


ESCAPES = "write @ : / ? # [ ] % in a password as %40 %3A %2F %3F %23 %5B %5D %25"


# Digits alone would be an IPv4 address to the resolver. They are more often the end of a password with an @.
_DATABASE_HOST = re.compile(r"(?!\d+$)[\w.:%-]*|[/@].*", re.DOTALL)


def _conninfo(value: object) -> object:
    """Refuse what libpq would not understand, and URLs of which it would read a piece of the password as a host.

    The messages repeat nothing of the value. libpq's own message quotes it, and that of a failed connection quotes the
    host.
    """
    if isinstance(value, str):
        try:
            given = {name: str(text) for name, text in conninfo_to_dict(value).items()}
        except (psycopg.Error, UnicodeError):
            raise ValueError(
                f"is not a connection string; write postgresql://user:secret@host:5432/database; {ESCAPES}"
            ) from None
        if not re.fullmatch(r"[\d,\s]*", given.get("port", "")):
            raise ValueError(f"the port must be a number; {ESCAPES}")
        # psycopg reads this one itself, and quotes it in its message.
        if not re.fullmatch(r"-?\d*", given.get("connect_timeout", "")):
            raise ValueError("connect_timeout must be a number of seconds; write connect_timeout=5")
        # `conninfo_to_dict` does not read a URL within a connection string, and the server repeats a database's name.
        if any("://" in given.get(name, "") for name in ("dbname", "host", "user", "service")):
            raise ValueError("has a URL within a connection string; write the URL alone")
        # libpq ends the password at the first @. If a / comes before it, libpq sees no password at all.
        if re.match(r"postgres(?:ql)?://(?:[^@/]*@)?+[^@?]*@", value):
            raise ValueError(f"has more than one @, or an @ after a /; {ESCAPES}")
        if not all(_DATABASE_HOST.fullmatch(host) for host in given.get("host", "").split(",")):
            raise ValueError(f"the host must be a name, an address or a folder that begins with /; {ESCAPES}")
    return value


Conninfo = Annotated[str, BeforeValidator(_conninfo)]


def _mailbox(value: object) -> object:
    return parse_mailbox(value) if isinstance(value, str) else value


# A part of a list of mailboxes (RFC 5322 3.4). A comma in quotes or in brackets does not separate two of them.
_LISTED = re.compile(r'(?:"(?:\\.|[^"\\])*"|<[^>]*>|[^,])+')


def _mailboxes(value: object) -> object:
    return tuple(filter(str.strip, _LISTED.findall(value))) if isinstance(value, str) else value


def _are_ascii(value: tuple[Mailbox, ...]) -> tuple[Mailbox, ...]:
    # RFC 6531 3.4: such a header needs SMTPUTF8 on the whole way, which the recipient's server may not announce.
    if any(mailbox.address.needs_smtputf8 for mailbox in value):
        raise ValueError("may have only ASCII characters before the @; name another address")
    return value


def _address(value: object) -> object:
    try:
        return parse_address(value) if isinstance(value, str) else value
    except BadData as exc:
        raise ValueError(f"{value!r}: {exc}; write jane@example.com") from None


def _allowed(value: object) -> object:
    """Read a list of addresses and domains. In the environment, commas separate them."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return items
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError('must be a list of addresses and domains; write ["@example.org", "jane@example.com"]')
    try:
        return tuple(parse_allowed(item) for item in items)
    except BadData as exc:
        raise ValueError(f"{', '.join(items)!r}: {exc}; write @example.org or jane@example.com") from None


MailboxText = Annotated[Mailbox, BeforeValidator(_mailbox)]
Mailboxes = Annotated[tuple[MailboxText, ...], BeforeValidator(_mailboxes), AfterValidator(_are_ascii)]
AddressText = Annotated[Address, BeforeValidator(_address)]
Allowed = Annotated[tuple[str, ...] | None, BeforeValidator(_allowed)]


def _names(value: object) -> object:
    return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def _ehlo_name(value: str) -> str:
    if not is_ehlo_name(value):
        raise ValueError("is not a host name; write mail.example.org, or an address in brackets: [192.0.2.1]")
    return value


EhloName = Annotated[str, AfterValidator(_ehlo_name)]


def parse_listen(value: str) -> tuple[str, int] | None:
    """Return host and port of ``127.0.0.1:9599`` or ``[::1]:9599``, and None for ``off``. Port 0 is any free port.

    Raises:
        ValueError: the text is none of these.
    """
    if value == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > MAX_PORT:
        raise ValueError(
            f"{value!r} is not an address with a port; write 127.0.0.1:9599, 0.0.0.0:9599, [::]:9599 or off"
        )
    return match[1] or match[2], int(match[3])


def check_ec_public_key(value: str) -> None:
    """Check that the text is an elliptic curve's public key (X.509 SubjectPublicKeyInfo) in base64.

    Raises:
        ValueError: It is none.
    """
    # Imported here: loading it takes longer than loading the configuration, and few configurations have such a key.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(base64.b64decode(value, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("is not a public key; copy the verification key from SendGrid, one line that starts with MFkw")
