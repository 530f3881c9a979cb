"""Opening an SMTP session: from a name and a port to a server that is ready for MAIL."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import aiosmtplib
from aiosmtplib.auth import auth_login_encode, auth_plain_encode, auth_xoauth2_encode

from listener.address import mask
from listener.errors import ConfigError, PgheraldError
from listener.smtp.replies import CONFIGURATION, SERVER, Phase, Reply, Verdict, classify
from listener.smtp.server import SmtpServer, is_ehlo_name


class SessionError(PgheraldError):
    """No session: nothing was handed over, and no event is to blame. `verdict` says whether waiting will help."""

    def __init__(self, phase: Phase, verdict: Verdict, detail: str) -> None:
        super().__init__(f"{phase}: {detail}")
        self.phase = phase
        self.verdict = verdict
        self.detail = detail


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Make the one context of the process: loading the system's certificates takes 30 ms.

    Raises `ConfigError` if `ca_file` cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(
            f"smtp.ca_file: cannot read certificates from {ca_file}: {error.strerror or error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def open_session(server: SmtpServer, tls: ssl.SSLContext) -> tuple[asyncio.Transport, dict[str, str]]:
    """Connect, secure, greet and log in. Gives the transport and what the last EHLO announced, in lower case.

    Raises `ServerTrouble`.
    """
    timeouts = server.timeouts
    with _translated(Phase.connect):
        sock = await _connect(server.host, server.port, timeouts.connect)
    client = aiosmtplib.SMTP(
        hostname=server.host,
        sock=sock,
        timeout=timeouts.greeting,
        use_tls=server.security == "tls",
        start_tls=False,
        tls_context=tls,
        local_hostname=server.ehlo_name or _own_name(sock),
    )
    try:
        with _translated(Phase.greeting):
            await client.connect()
        client.timeout = timeouts.command
        with _translated(Phase.ehlo):
            await client.ehlo()
        if server.security == "starttls":
            await _secure(client)
        if server.username is not None:
            await _log_in(client, server)
        transport = client.transport
        if transport is None or transport.is_closing():
            raise SessionError(Phase.ehlo, SERVER, "the server closed the connection")
    except BaseException:
        # Closing a TLS transport is a conversation of its own; this one has been broken off.
        if client.transport is not None:
            cast(asyncio.Transport, client.transport).abort()
        raise
    return cast(asyncio.Transport, transport), dict(client.esmtp_extensions)


async def _connect(host: str, port: int, timeout: float) -> socket.socket:
    """Try each of the host's addresses, each for its share of the time."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(timeout / len(found)):
                await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error if str(error) else TimeoutError(f"no answer from {address[0]} port {port}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _secure(client: aiosmtplib.SMTP) -> None:
    if not client.supports_extension("starttls"):
        raise SessionError(
            Phase.tls,
            CONFIGURATION,
            "the server does not offer STARTTLS, and nothing is sent in clear; use smtps://, or starttls=off",
        )
    # So that bytes the kernel does not take are seen under TLS, too (`Wire.unsent`).
    cast(asyncio.Transport, client.transport).set_write_buffer_limits(high=0)
    with _translated(Phase.tls):
        await client.starttls()
    # RFC 3207 4.2: what was said in clear is void.
    with _translated(Phase.ehlo):
        await client.ehlo()


async def _log_in(client: aiosmtplib.SMTP, server: SmtpServer) -> None:
    if server.security == "off":
        raise SessionError(Phase.auth, CONFIGURATION, "a password is not sent in clear; use smtps:// or STARTTLS")
    username, password = server.username or "", server.password or ""
    offered = client.server_auth_methods
    with _translated(Phase.auth, *_sent(username, password)):
        if server.xoauth2 and "xoauth2" in offered:
            await client.auth_xoauth2(username, password)
        elif not server.xoauth2 and "plain" in offered:
            await client.auth_plain(username, password)
        elif not server.xoauth2 and "login" in offered:
            await client.auth_login(username, password)
        else:
            wanted = "XOAUTH2" if server.xoauth2 else "PLAIN or LOGIN"
            offer = mask(" ".join(offered).upper()) or "no AUTH"
            raise SessionError(Phase.auth, CONFIGURATION, f"the server offers {offer}, not {wanted}")


def _sent(username: str, password: str) -> list[str]:
    """Return the forms in which a login goes over the wire, and its password."""
    encoded = (
        auth_plain_encode(username, password),
        auth_xoauth2_encode(username, password),
        auth_login_encode(username, password)[1],
    )
    return [form for form in (*(form.decode() for form in encoded), password) if form]


@contextlib.contextmanager
def _translated(phase: Phase, *secrets: str) -> Iterator[None]:
    """Make `ServerTrouble` of what goes wrong. A server may repeat the command that it refuses: `secrets` are taken out."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        said = error.message
        for secret in secrets:
            said = said.replace(secret, "***")
        reply = Reply.of(error.code, said.split("\n"))
        # Nor may a traceback show the words as they came.
        raise SessionError(phase, classify(phase, reply, reused=False), str(reply)) from None if secrets else error
    except (aiosmtplib.SMTPException, OSError, UnicodeError) as error:
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        # The library greets in the same call as it shakes hands; only its own errors come from the greeting.
        if phase is Phase.greeting and not isinstance(cause, aiosmtplib.SMTPException):
            phase = Phase.tls
        # UnicodeError: a host name that no DNS can hold.
        verdict = CONFIGURATION if isinstance(cause, ssl.SSLCertVerificationError | UnicodeError) else SERVER
        raise SessionError(phase, verdict, mask(str(error)) or "no answer in time") from error


def _own_name(sock: socket.socket) -> str:
    """The host's full name, else its address as RFC 5321 4.1.3 writes it. Asks no DNS, which may take its time."""
    name = socket.gethostname()
    if "." in name and is_ehlo_name(name):
        return name
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
