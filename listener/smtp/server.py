"""An SMTP server: its address, how the connection is secured, the login, and how long each step may take.

These types stand apart from `listener.smtp.session`, so that reading the configuration does not import the SMTP library.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from listener.errors import ConfigError

# RFC 5321 4.1.2 and 4.1.3: a host name, or an address literal in brackets; 255 octets at most (4.5.3.1.2).
_EHLO_NAME = re.compile(
    r"(?=.{1,255}\Z)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9.]{7,15}\]|\[IPv6:[0-9A-Fa-f:.]{2,45}\]"
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The longest wait for each step, in seconds. The figures are those of RFC 5321 4.5.3.2, if it has one."""

    connect: float = 30.0
    """TCP, over all addresses of the host together"""
    greeting: float = 60.0
    """the TLS handshake of ``smtps://``, and the greeting"""
    command: float = 300.0
    """EHLO, STARTTLS, AUTH, MAIL and RCPT"""
    data: float = 120.0
    """the reply to DATA"""
    dot: float = 600.0
    """the reply to the dot; a client that gives up before the server's content filter is done sends twice"""
    quit: float = 5.0
    """the reply to QUIT, which changes nothing any more"""


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """How to get access tokens: the refresh-token grant, or without a refresh token the client-credentials grant.

    See RFC 6749 6 and 4.4. The client's secret may be missing for the former alone (a public client).
    """

    token_url: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The server that messages are sent to.

    Attributes:
        security: `tls` from the start, `starttls` required, or `off`.
        xoauth2: whether to log in with an access token (AUTH XOAUTH2): `password`, or one from `grant`.
        tls_name: the name that the certificate must be for, and that TLS asks for (SNI). None stands for `host`.
        ehlo_name: the name to greet with. None stands for the host's full name, or its address.

    Raises:
        ConfigError: `ehlo_name` is neither a host name nor an address literal.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "off"]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    xoauth2: bool = False
    grant: OAuthGrant | None = None
    tls_name: str | None = None
    ehlo_name: str | None = None
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        if self.ehlo_name is not None and not is_ehlo_name(self.ehlo_name):
            raise ConfigError(
                f"smtp.ehlo_name: {self.ehlo_name!r} is not a host name; write mail.example.org or [192.0.2.1]"
            )


def is_ehlo_name(name: str) -> bool:
    """Return whether EHLO may carry this name: a host name, or an address literal such as ``[192.0.2.1]``."""
    return _EHLO_NAME.fullmatch(name) is not None
