"""The sender's address and the mail server. The check opens a session and closes it; it sends no message."""

import asyncio
import ipaddress
import os
from dataclasses import replace

from listener.config.fields import LOOPBACK
from listener.doctor.context import Context
from listener.doctor.result import Finding, fault, ok, warn
from listener.errors import ConfigError
from listener.smtp.connection import SmtpConnection
from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Scope
from listener.smtp.server import SmtpServer, Timeouts
from listener.smtp.session import ehlo_name, tls_context
from listener.smtp.session_error import SessionError

# Shorter than the daemon's time-outs, for a person waits. RFC 5321, 4.5.3.2 allows minutes.
_TIMEOUTS = Timeouts(connect=5, greeting=10, command=10, quit=1)
# A server that uses up most of each time-out is reported as too slow.
_SESSION_TIMEOUT_S = 20.0


async def sender(context: Context) -> Finding:
    """Check that the sender's address has a domain, and show where messages may go."""
    mail = context.settings.mail
    own = {name: rule.from_address for name, rule in context.settings.rules.items()}
    places = [(f"[rules.{name}]", "from_address", mailbox) for name, mailbox in own.items()]
    places += [("[mail]", "envelope_from", mail.envelope_from)]
    # If each rule has an address of its own, no email comes from that of the section.
    places += [("[mail]", "from", mail.sender)] if None in own.values() else []
    for section, key, mailbox in reversed(places):
        if mailbox is not None and (domain := mailbox.address.domain) in ("localhost", "localhost.localdomain"):
            variable = f" (PGHERALD_MAIL_{key.upper()})" if section == "[mail]" else ""
            return warn(
                f"{section} {key} is {mailbox.address.local}@{domain}, which other mail servers refuse",
                f"set {section} {key} to an address at your own domain{variable}",
            )
    limits = f", only to {', '.join(mail.allowed_recipients)}" if mail.allowed_recipients is not None else ""
    limits += f", all redirected to {mail.redirect_to}" if mail.redirect_to is not None else ""
    senders = dict.fromkeys(str((mailbox or mail.sender).address) for mailbox in own.values())
    return ok(f"emails come from {', '.join(senders)}{limits}")


async def smtp(context: Context) -> Finding:
    """Connect, start TLS, log in and quit. For other transports, check that the folder is writable."""
    mail = context.settings.mail
    if mail.transport == "console":
        return ok("no mail server is used: messages go to stdout")
    if mail.transport == "file":
        assert mail.directory is not None
        if mail.directory.is_symlink():
            return fault(
                f"[mail] directory: {mail.directory} is a symbolic link, which pgherald does not follow",
                "set [mail] directory to the folder that the link leads to",
            )
        existing = next(folder for folder in (mail.directory, *mail.directory.absolute().parents) if folder.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            return fault(f"{existing} is not a writable folder", "correct its permissions, or set [mail] directory")
        return ok(f"no mail server is used: messages go to {mail.directory}")
    return await _session(context, context.settings.smtp.server, "url")


async def fallback(context: Context) -> Finding:
    """Connect to the second mail server, start TLS, log in and quit."""
    server = context.settings.smtp.fallback
    assert server is not None
    return await _session(context, server, "fallback_url")


async def _session(context: Context, url: SmtpServer, key: str) -> Finding:
    settings = context.settings.smtp
    place = f"{url.host}:{url.port}"
    try:
        async with asyncio.timeout(_SESSION_TIMEOUT_S):
            connection = await SmtpConnection.open(replace(url, timeouts=_TIMEOUTS), tls_context(settings.ca_file))
            await connection.close()
    except ConfigError as exc:
        return fault(str(exc), "correct it in [smtp]")
    except TimeoutError:
        return fault(
            f"{place}: no session within {_SESSION_TIMEOUT_S:g} s", "look at the mail server's load and its log"
        )
    except SessionError as exc:
        waiting = "" if exc.verdict.scope is Scope.configuration else "; events wait, none is lost"
        # An error of connect() names the place itself.
        error = str(exc) if place in str(exc) else f"{place}: {exc}"
        return fault(f"{error}{waiting}", remedy_for(exc.phase, exc.verdict).replace("[smtp] url", f"[smtp] {key}"))
    security = {"off": "no TLS", "starttls": "STARTTLS, valid certificate", "tls": "TLS, valid certificate"}[
        url.security
    ]
    greeted_as = ehlo_name(url, connection.local_address)
    # Some providers use one token as user and as password. It must not be shown.
    user = f" as {url.username}" if url.username != url.password else ""
    seen = f"{place} answers, {security}" + (f", logged in{user}" if url.username else "")
    if url.security == "off" and url.host not in LOOPBACK:
        return warn(
            f"{seen}: everyone on the network path can read the messages", f"remove ?starttls=off from [smtp] {key}"
        )
    if _is_private_address(greeted_as):
        return warn(
            f"{seen}: pgherald greets it as {greeted_as}, an address of a private network, which many servers refuse",
            "set [smtp] ehlo_name to the public name of this host, such as mail.example.org",
        )
    return ok(seen)


def _is_private_address(name: str) -> bool:
    """Return whether a name in EHLO is an address literal that means nothing to a server elsewhere."""
    if not name.startswith("["):
        return False
    address = ipaddress.ip_address(name[1:-1].removeprefix("IPv6:"))
    # On loopback the server runs on this host, and the address says so.
    return not address.is_global and not address.is_loopback
