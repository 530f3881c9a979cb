"""Opens an SMTP session: from a host and a port to a server that is ready for MAIL.

aiosmtplib does the handshakes. Every failure becomes a `SessionError` that names the phase and the verdict.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiosmtplib

from listener.errors import ConfigError
from listener.smtp.logins import NO_MECHANISM, Logins
from listener.smtp.replies import Phase, Reply
from listener.smtp.server import SmtpServer, is_ehlo_name
from listener.smtp.session_error import SessionError, translate_errors
from listener.smtp.tcp import AddressOrder, connect
from listener.smtp.tls import any_name, certificate_names, speaks_tls
from listener.smtp.verdicts import CONFIGURATION, SERVER

# A server that is silent for longer may wait for the TLS handshake. Postfix's postscreen greets after 6 s.
_SILENCE_S = 3.0
_NO_STARTTLS = replace(
    CONFIGURATION, remedy="use smtps://, or add ?starttls=off to [smtp] url if you trust the network between"
)
_NO_CLEAR = replace(CONFIGURATION, remedy="write smtps:// instead of smtp:// in [smtp] url, or correct its port")
# RFC 5321 4.1.1.1: a client falls back to HELO if the server does not know EHLO.
_UNKNOWN_EHLO = re.compile(
    r"50[02] |504 (?!.*(name|rejected))|5\d\d .*(not (implemented|recogni[sz]ed|supported|understood)|(unknown|unrecogni[sz]ed|invalid) command)",
    re.IGNORECASE,
)


class ServerMemory:
    """The experience of former sessions with one server, for the benefit of the next one.

    `greeted`: the server speaks SMTP on this port without TLS, however long it takes.
    """

    def __init__(self, logins: Logins | None = None) -> None:
        self.logins = logins or Logins()
        self.addresses = AddressOrder()
        self.greeted = False


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a TLS context that verifies the server, for TLS 1.2 or newer. Share it: making one takes about 30 ms.

    `ca_file` contains the certificates to trust, in PEM. None means the system's.

    Raises:
        ConfigError: `ca_file` cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(
            f"smtp.ca_file: cannot read certificates from {ca_file}: {error.strerror or error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def open_session(
    server: SmtpServer, tls: ssl.SSLContext, memory: ServerMemory | None = None
) -> tuple[asyncio.Transport, dict[str, str]]:
    """Connect, start TLS, say EHLO and log in.

    Return the transport and the extensions that the last EHLO announced, in lower case.

    Raises:
        SessionError: One of the steps failed.
    """
    memory = memory or ServerMemory()
    if server.username is None:
        return await _open(server, tls, memory)
    async with memory.logins.turn():
        return await _open(server, tls, memory)


def ehlo_name(server: SmtpServer, address: str) -> str:
    """Return the name to greet with: the configured one, the host's full name, or its `address` as a literal.

    See RFC 5321 4.1.3. No DNS is asked, which could take seconds.
    """
    if server.ehlo_name:
        return server.ehlo_name
    name = socket.gethostname()
    if "." in name and is_ehlo_name(name):
        return name
    own = ipaddress.ip_address(address.partition("%")[0])
    return f"[IPv6:{own}]" if own.version == 6 else f"[{own}]"


async def _open(
    server: SmtpServer, tls: ssl.SSLContext, memory: ServerMemory
) -> tuple[asyncio.Transport, dict[str, str]]:
    try:
        client = await _secured(server, tls, memory)
    except SessionError as error:
        if not error.is_name_mismatch:
            raise
        names = await _certificate_names(server, tls, memory)
        shown = f"; it is for {', '.join(names)}" if names else ""
        raise SessionError(error.phase, error.verdict, error.detail + shown) from error
    try:
        if server.username is not None:
            await memory.logins.log_in(client, server)
        return _transport(client), dict(client.esmtp_extensions)
    except BaseException:
        _abort(client)
        raise


async def _secured(server: SmtpServer, tls: ssl.SSLContext, memory: ServerMemory) -> aiosmtplib.SMTP:
    """Connect, start TLS and say EHLO. Return a client that is ready to log in."""
    with translate_errors(Phase.connect):
        sock = await connect(server.host, server.port, server.timeouts.connect, memory.addresses)
    # Read now: the name of a socket that was closed is unknown.
    address, own_address = str(sock.getpeername()[0]), str(sock.getsockname()[0])
    client = aiosmtplib.SMTP(
        # A host's name may end with a dot. The names in certificates never do.
        hostname=(server.tls_name or server.host).rstrip("."),
        sock=sock,
        timeout=server.timeouts.greeting,
        use_tls=server.security == "tls",
        start_tls=False,
        tls_context=tls,
        local_hostname=ehlo_name(server, own_address),
    )
    try:
        await _greet(client, address, server, memory)
        client.timeout = server.timeouts.command
        await _say_ehlo(client, server)
        if server.security == "starttls":
            await _start_tls(client)
        _transport(client)
    except BaseException as error:
        _abort(client)
        if isinstance(error, SessionError):
            memory.addresses.failed(address)
        raise
    memory.addresses.worked(address)
    return client


async def _greet(client: aiosmtplib.SMTP, address: str, server: SmtpServer, memory: ServerMemory) -> None:
    """Do the handshake of ``smtps://`` and read the greeting. Find out why a server is silent on a clear connection."""
    greeting = asyncio.create_task(client.connect(), name="smtp-greeting")
    tasks: list[asyncio.Task[Any]] = [greeting]
    try:
        if server.security != "tls" and not memory.greeted:
            await asyncio.wait(tasks, timeout=_SILENCE_S)
            if not greeting.done():
                probe = asyncio.create_task(speaks_tls(address, server.port), name="smtp-tls-probe")
                tasks.append(probe)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not greeting.done() and probe.result():
                    raise SessionError(
                        Phase.greeting, _NO_CLEAR, "the server is silent in clear, and speaks TLS on this port"
                    )
        with translate_errors(Phase.greeting):
            await greeting
        memory.greeted = True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _say_ehlo(client: aiosmtplib.SMTP, server: SmtpServer) -> None:
    with translate_errors(Phase.ehlo):
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            reply = Reply.of(error.code, error.message.split("\n"))
            if not _UNKNOWN_EHLO.match(f"{reply} "):
                raise
            if server.security == "starttls" or server.username is not None:
                needs_tls = server.security == "starttls"
                need = "STARTTLS" if needs_tls else "a login"
                raise SessionError(
                    Phase.ehlo,
                    _NO_STARTTLS if needs_tls else NO_MECHANISM,
                    f"{reply}; {need} needs EHLO, which the server does not know",
                ) from error
            await client.helo()


async def _start_tls(client: aiosmtplib.SMTP) -> None:
    if not client.supports_extension("starttls"):
        raise SessionError(
            Phase.tls,
            _NO_STARTTLS,
            "the server does not offer STARTTLS, and nothing is sent in clear",
        )
    # Under TLS too, bytes that the kernel has not taken must count as not sent (`SmtpProtocol.unsent`).
    cast(asyncio.Transport, client.transport).set_write_buffer_limits(high=0)
    with translate_errors(Phase.tls):
        await client.starttls()
    # RFC 3207 4.2: the extensions announced in clear are void, because an attacker may have changed them.
    with translate_errors(Phase.ehlo):
        await client.ehlo()


async def _certificate_names(server: SmtpServer, tls: ssl.SSLContext, memory: ServerMemory) -> list[str]:
    """Return the names in the certificate of a server that has another name. No login is made there."""
    client: aiosmtplib.SMTP | None = None
    with suppress(SessionError):
        client = await _secured(server, any_name(tls), memory)
    if client is None:
        return []
    names = certificate_names(_transport(client))
    _abort(client)
    return names


def _transport(client: aiosmtplib.SMTP) -> asyncio.Transport:
    transport = client.transport
    if transport is None or transport.is_closing():
        raise SessionError(Phase.ehlo, SERVER, "the server closed the connection")
    return cast(asyncio.Transport, transport)


def _abort(client: aiosmtplib.SMTP) -> None:
    # Not close(): closing TLS waits for the peer, and this session has failed.
    if client.transport is not None:
        cast(asyncio.Transport, client.transport).abort()
