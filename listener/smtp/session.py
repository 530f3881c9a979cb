"""Opens an SMTP session: from a host and a port to a server that is ready for MAIL.

aiosmtplib does the handshakes. Every failure becomes a `SessionError` that names the phase and the verdict.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import aiosmtplib
from aiosmtplib.auth import auth_login_encode, auth_plain_encode, auth_xoauth2_encode

from listener.address import mask
from listener.errors import ConfigError, PgheraldError
from listener.smtp.replies import Phase, Reply, Verdict
from listener.smtp.server import SmtpServer, is_ehlo_name
from listener.smtp.tcp import connect
from listener.smtp.verdicts import CONFIGURATION, SERVER, classify


class SessionError(PgheraldError):
    """The session could not be opened. No message was sent, and no event is the cause.

    `phase` is the step that failed and `detail` the error as text. `verdict` says whether a retry can help.
    """

    def __init__(self, phase: Phase, verdict: Verdict, detail: str) -> None:
        super().__init__(f"{phase}: {detail}")
        self.phase = phase
        self.verdict = verdict
        self.detail = detail


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


async def open_session(server: SmtpServer, tls: ssl.SSLContext) -> tuple[asyncio.Transport, dict[str, str]]:
    """Connect, start TLS, say EHLO and log in.

    Return the transport and the extensions that the last EHLO announced, in lower case.

    Raises:
        SessionError: One of the steps failed.
    """
    timeouts = server.timeouts
    with _translate_errors(Phase.connect):
        sock = await connect(server.host, server.port, timeouts.connect)
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
        with _translate_errors(Phase.greeting):
            await client.connect()
        client.timeout = timeouts.command
        with _translate_errors(Phase.ehlo):
            await client.ehlo()
        if server.security == "starttls":
            await _secure(client)
        if server.username is not None:
            await _log_in(client, server)
        transport = client.transport
        if transport is None or transport.is_closing():
            raise SessionError(Phase.ehlo, SERVER, "the server closed the connection")
    except BaseException:
        # Not close(): closing TLS waits for the peer, and this session has failed.
        if client.transport is not None:
            cast(asyncio.Transport, client.transport).abort()
        raise
    return cast(asyncio.Transport, transport), dict(client.esmtp_extensions)


async def _secure(client: aiosmtplib.SMTP) -> None:
    if not client.supports_extension("starttls"):
        raise SessionError(
            Phase.tls,
            _NO_STARTTLS,
            "the server does not offer STARTTLS, and nothing is sent in clear",
        )
    # Under TLS too, bytes that the kernel has not taken must count as not sent (`SmtpProtocol.unsent`).
    cast(asyncio.Transport, client.transport).set_write_buffer_limits(high=0)
    with _translate_errors(Phase.tls):
        await client.starttls()
    # RFC 3207 4.2: the extensions announced in clear are void, because an attacker may have changed them.
    with _translate_errors(Phase.ehlo):
        await client.ehlo()


async def _log_in(client: aiosmtplib.SMTP, server: SmtpServer) -> None:
    if server.security == "off":
        raise SessionError(Phase.auth, _NO_TLS_FOR_PASSWORD, "a password is not sent in clear")
    username, password = server.username or "", server.password or ""
    offered = client.server_auth_methods
    with _translate_errors(Phase.auth, *_encoded_secrets(username, password)):
        if server.xoauth2 and "xoauth2" in offered:
            await client.auth_xoauth2(username, password)
        elif not server.xoauth2 and "plain" in offered:
            await client.auth_plain(username, password)
        elif not server.xoauth2 and "login" in offered:
            await client.auth_login(username, password)
        else:
            wanted = "XOAUTH2" if server.xoauth2 else "PLAIN or LOGIN"
            offer = mask(" ".join(offered).upper()) or "no AUTH"
            raise SessionError(Phase.auth, _NO_AUTH_METHOD, f"the server offers {offer}; this login needs {wanted}")


def _encoded_secrets(username: str, password: str) -> list[str]:
    """Return every text that would reveal the login: its encodings for AUTH (RFC 4954 4), and the password itself."""
    encoded = (
        auth_plain_encode(username, password),
        auth_xoauth2_encode(username, password),
        auth_login_encode(username, password)[1],
    )
    return [form for form in (*(form.decode() for form in encoded), password) if form]


@contextlib.contextmanager
def _translate_errors(phase: Phase, *secrets: str) -> Iterator[None]:
    """Turn every error of `phase` into a `SessionError`.

    A server may repeat the command that it refuses, so `secrets` are removed from its reply.
    """
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        text = error.message
        for secret in secrets:
            text = text.replace(secret, "***")
        reply = Reply.of(error.code, text.split("\n"))
        # A traceback with the cause would show the unmasked reply.
        raise SessionError(phase, classify(phase, reply, reused=False), str(reply)) from None if secrets else error
    except (aiosmtplib.SMTPException, OSError, UnicodeError) as error:
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        # aiosmtplib does the TLS handshake and reads the greeting in one call. Only its own errors come from the
        # greeting.
        if phase is Phase.greeting and not isinstance(cause, aiosmtplib.SMTPException):
            phase = Phase.tls
        verdict, detail = _classify_error(cause or error)
        raise SessionError(phase, verdict, mask(detail) or "no answer in time") from error


def _classify_error(error: BaseException) -> tuple[Verdict, str]:
    """Return the verdict on an error without a reply, and the error as text."""
    match error:
        case ssl.SSLCertVerificationError():
            return CONFIGURATION, f"the server's certificate cannot be verified: {error.verify_message or error}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return _NO_TLS, "the server speaks no TLS on this port"
        case UnicodeError():
            # The host's name is one that DNS cannot hold.
            return CONFIGURATION, str(error)
        case OSError():
            return SERVER, error.strerror or str(error)
        case _:
            return SERVER, str(error)


_NO_STARTTLS = replace(
    CONFIGURATION, remedy="use smtps://, or add ?starttls=off to [smtp] url if you trust the network between"
)
_NO_TLS_FOR_PASSWORD = replace(CONFIGURATION, remedy="use smtps://, or add ?starttls=required to [smtp] url")
_NO_AUTH_METHOD = replace(
    CONFIGURATION, remedy="correct [smtp] auth, or take the user and the password out of [smtp] url"
)
_NO_TLS = replace(SERVER, remedy="write smtp:// instead of smtps:// in [smtp] url, or correct its port")


def _own_name(sock: socket.socket) -> str:
    """Return the host's full name, or its address as a literal (RFC 5321 4.1.3). Ask no DNS, which could take seconds."""
    name = socket.gethostname()
    if "." in name and is_ehlo_name(name):
        return name
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
