"""The URL of a mail server: `smtp.url`."""

import re
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from listener.config.fields import ESCAPES, LOOPBACK, MAX_PORT
from listener.smtp.server import SmtpServer

# RFC 8314 for smtps, RFC 6409 for submission, RFC 5321 for a relay on the same host.
_DEFAULT_PORTS = {"tls": 465, "starttls": 587, "off": 25}
# A name in any script, or an address in brackets, and a port. `urlsplit` ignores text between the bracket and the port.
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::\d*)?")
_TLS_NAME = re.compile(r"[\w.-]{1,255}|[0-9A-Fa-f:.]{2,45}")


def parse_smtp_url(url: str) -> SmtpServer:
    """Return the server of an ``smtp://`` or ``smtps://`` URL.

    ``smtps://`` starts with TLS. ``smtp://`` requires STARTTLS, except on loopback or with ``?starttls=off``.
    ``?tls_name=`` is the name in the certificate, if it is not the host's.

    Raises:
        ValueError: the URL is invalid. The message repeats nothing of it, since any part may belong to the password.
    """
    form = f"write smtp://user:secret@host:587 or smtps://user:secret@host:465; {ESCAPES}"
    # `urlsplit` removes some of these silently, and the password would change.
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", url):
        raise ValueError(
            "has a control character, a line break or a byte that is not UTF-8; "
            "remove it, or write it as %09 or %0A in a password"
        )
    # The last @ ends the password. A / ? or # before it would end the host's name, and [ begins an IPv6 address.
    if re.match(r"smtps?://.*[/?#\[\]].*@", url, re.IGNORECASE):
        raise ValueError(f"the user or the password has one of / ? # [ ] in it; {ESCAPES}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"is not a URL; {form}") from None
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the port must be a number from 1 to {MAX_PORT}; {ESCAPES}") from None
    query = parse_qs(parts.query, keep_blank_values=True)
    starttls = query.pop("starttls", ["required"])[-1]
    tls_name = query.pop("tls_name", [None])[-1]
    if parts.scheme not in ("smtp", "smtps") or parts.path not in ("", "/") or query or parts.fragment:
        raise ValueError(f"is not the URL of a mail server; {form}")
    host = parts.hostname
    if not host or not _HOST.fullmatch(parts.netloc.rpartition("@")[2]):
        raise ValueError(f"the host must be a name or an address; {form}")
    if port == 0:
        raise ValueError(f"the port must be a number from 1 to {MAX_PORT}; {ESCAPES}")
    security = _security(parts.scheme, host, starttls, has_starttls="starttls" in parts.query)
    if tls_name is not None and not _TLS_NAME.fullmatch(tls_name):
        raise ValueError("tls_name must be a name in the server's certificate; write ?tls_name=mail.example.org")
    if tls_name is not None and security == "off":
        raise ValueError("tls_name needs TLS; write smtps://, or ?starttls=required&tls_name=…")
    username, password = _login(parts.username or "", parts.password or "")
    return SmtpServer(
        host=host,
        port=port or _DEFAULT_PORTS[security],
        security=security,
        username=username,
        password=password,
        tls_name=tls_name,
    )


def _security(scheme: str, host: str, starttls: str, *, has_starttls: bool) -> Literal["starttls", "tls", "off"]:
    if starttls not in ("required", "off"):
        raise ValueError("starttls must be required or off; write ?starttls=off only for a server on a trusted network")
    if scheme == "smtps" and has_starttls:
        raise ValueError("smtps:// starts with TLS and takes no starttls; remove it, or write smtp://")
    if scheme == "smtps":
        return "tls"
    return "off" if starttls == "off" or (host in LOOPBACK and not has_starttls) else "starttls"


def _login(quoted_username: str, quoted_password: str) -> tuple[str | None, str | None]:
    try:
        username, password = (unquote(part, errors="strict") or None for part in (quoted_username, quoted_password))
    except UnicodeDecodeError:
        raise ValueError("the user or the password has a %XX that is not UTF-8; write a literal % as %25") from None
    if password is not None and username is None:
        raise ValueError(f"has a password and no user; write smtp://user:secret@host:587; {ESCAPES}")
    return username, password
