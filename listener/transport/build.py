"""Makes the configured transport."""

from typing import assert_never

from listener.config.settings import Settings, Smtp
from listener.smtp.breaker import Breaker
from listener.smtp.pool import SmtpPool
from listener.smtp.session import SmtpServer, Timeouts, tls_context
from listener.transport.base import Transport
from listener.transport.local import Console, Maildir


def transport(settings: Settings, breaker: Breaker) -> Transport:
    """Return the transport of ``mail.transport``. It reports each outcome to `breaker`.

    Raises:
        ConfigError: `smtp.ca_file` or `smtp.ehlo_name` is invalid.
    """
    smtp = settings.smtp
    match settings.mail.transport:
        case "smtp":
            timeouts = Timeouts(
                connect=smtp.connect_timeout, command=smtp.command_timeout, data=smtp.data_timeout, dot=smtp.dot_timeout
            )
            return SmtpPool(server(smtp, timeouts), tls_context(smtp.ca_file), smtp.connections, breaker)
        case "file":
            assert settings.mail.directory is not None
            return Maildir(settings.mail.directory, breaker)
        case "console":
            return Console(breaker)
        case _:
            assert_never(settings.mail.transport)


def server(smtp: Smtp, timeouts: Timeouts) -> SmtpServer:
    """Return the mail server of ``[smtp]``.

    Raises:
        ConfigError: `smtp.ehlo_name` is invalid.
    """
    url = smtp.server
    return SmtpServer(
        host=url.host,
        port=url.port,
        security=url.security,
        username=url.username,
        password=url.password,
        xoauth2=smtp.auth == "xoauth2",
        ehlo_name=smtp.ehlo_name,
        timeouts=timeouts,
    )
