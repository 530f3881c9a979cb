"""Makes the configured transport."""

from functools import partial
from typing import assert_never

from listener.config.settings import Settings
from listener.smtp.breaker import Breaker
from listener.smtp.fallback import SmtpFallback
from listener.smtp.logins import Logins
from listener.smtp.oauth import AccessTokens
from listener.smtp.pool import SmtpPool
from listener.smtp.session import tls_context
from listener.transport.base import Transport
from listener.transport.local import Console, Maildir


def transport(settings: Settings, breaker: Breaker, tokens: AccessTokens | None = None) -> Transport:
    """Return the transport of ``mail.transport``. It reports each outcome to `breaker`.

    `tokens` are those of this process, for all transports that follow each other.

    Raises:
        ConfigError: `smtp.ca_file` cannot be read.
    """
    smtp = settings.smtp
    match settings.mail.transport:
        case "smtp":
            tls = tls_context(smtp.ca_file)
            logins = Logins(tokens, smtp.read_again)
            if smtp.fallback is None:
                breaker.bypassed = None
                return SmtpPool(smtp.server, tls, smtp.connections, breaker, logins)
            breaker.bypassed = Breaker()
            first = SmtpPool(smtp.server, tls, smtp.connections, breaker.bypassed, logins)
            second = SmtpPool(
                smtp.fallback, tls, smtp.connections, breaker, Logins(read=partial(smtp.read_again, "fallback_url"))
            )
            return SmtpFallback(first, breaker.bypassed, second)
        case "file":
            assert settings.mail.directory is not None
            return Maildir(settings.mail.directory, breaker)
        case "console":
            return Console(breaker)
        case _:
            assert_never(settings.mail.transport)
