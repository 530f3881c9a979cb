"""Logins at one server: one at a time until one has worked, and seldom after a refusal."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiosmtplib

from listener.address import mask
from listener.errors import ConfigError
from listener.smtp import sasl
from listener.smtp.oauth import AccessTokens
from listener.smtp.replies import Phase, Reply, Scope, Verdict
from listener.smtp.server import SmtpServer
from listener.smtp.session_error import SessionError, translate_errors
from listener.smtp.verdicts import CONFIGURATION, SERVER

# A guard such as fail2ban bans an address after five refusals in ten minutes. These are four in the first half hour.
_PAUSES_S = (60.0, 300.0, 900.0)
# Within this time after a login that worked, others go on beside each other. A changed password is found later.
_TRUST_S = 60.0
_PASSWORD_MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256", "CRAM-MD5")
_NO_TLS = replace(CONFIGURATION, remedy="use smtps://, or add ?starttls=required to [smtp] url")
NO_MECHANISM = replace(CONFIGURATION, remedy="correct [smtp] auth, or take the user and the password out of [smtp] url")
_NO_MECHANISM_WORKS = replace(CONFIGURATION, remedy="ask the server's operator which login it takes; see [smtp] auth")


class Logins:
    """The logins of one daemon at one server.

    `tokens` gets access tokens. `read` returns the server as it is configured at this moment: a file may hold the
    password, and another program may replace it. `refusal` is the last error of a session if its login was refused.
    """

    def __init__(self, tokens: AccessTokens | None = None, read: Callable[[], SmtpServer] | None = None) -> None:
        self.refusal: SessionError | None = None
        self._tokens = tokens or AccessTokens()
        self._read = read
        self._lock = asyncio.Lock()
        self._trusted_until = 0.0
        self._failures = 0
        self._failure: SessionError | None = None
        self._refusals = 0
        self._unfit: set[str] = set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn to open a session. It opens within the context, and others wait until a login has worked.

        Raises:
            SessionError: The session before this one failed meanwhile. It is not tried again with the same result.
        """
        if not self._trusted:
            seen = self._failures
            async with self._lock:
                if self._failure is not None and self._failures != seen:
                    failure = self._failure
                    raise SessionError(failure.phase, failure.verdict, failure.detail, failure.pause)
                if not self._trusted:
                    try:
                        yield
                    except SessionError as error:
                        # A server that allows fewer connections may have one for the next.
                        if error.verdict.scope is not Scope.connections:
                            self._failures += 1
                            self._failure = error
                        raise
                    return
        yield

    @property
    def _trusted(self) -> bool:
        return asyncio.get_running_loop().time() < self._trusted_until

    async def log_in(self, client: aiosmtplib.SMTP, server: SmtpServer) -> None:
        """Log in by the first mechanism that the server takes.

        Raises:
            SessionError: The server refuses the login, or takes no mechanism that pgherald knows.
        """
        if server.security == "off":
            raise SessionError(Phase.auth, _NO_TLS, "a password is not sent in clear")
        server = self._configured(server)
        mechanisms = self._mechanisms(client, server)
        refusals: dict[str, Reply] = {}
        for mechanism in mechanisms:
            try:
                with translate_errors(Phase.auth):
                    reply = await self._try(client, mechanism, server)
            except SessionError:
                if not refusals:
                    raise
                # The server refused a mechanism and hung up. The next session begins with another one.
                break
            if reply.code == 235:
                self._trusted_until = asyncio.get_running_loop().time() + _TRUST_S
                self._refusals, self.refusal = 0, None
                return
            match sasl.refused(reply):
                case "mechanism":
                    refusals[mechanism] = reply
                    self._unfit.add(mechanism)
                case "login":
                    raise self._refused(str(reply))
                case "server":
                    raise (
                        self._refused(str(reply), SERVER)
                        if sasl.is_banned(reply)
                        else SessionError(Phase.auth, SERVER, str(reply))
                    )
        detail = ", ".join(f"AUTH {mechanism}: {reply}" for mechanism, reply in refusals.items())
        if set(refusals) == set(mechanisms):
            raise self._refused(detail, _NO_MECHANISM_WORKS)
        raise SessionError(Phase.auth, SERVER, f"{detail}; the server closed the connection")

    def _configured(self, server: SmtpServer) -> SmtpServer:
        if self._read is None:
            return server
        try:
            present = self._read()
        except (ConfigError, ValueError) as error:
            raise SessionError(Phase.auth, CONFIGURATION, mask(str(error))) from None
        # A reload connects to another server. Until then, this one must not learn the other one's password.
        is_same = (present.host, present.port, present.username is None) == (server.host, server.port, False)
        return present if is_same else server

    def _mechanisms(self, client: aiosmtplib.SMTP, server: SmtpServer) -> list[str]:
        """Return the mechanisms to try. One that the server refused before comes last."""
        offered = list(dict.fromkeys(name.upper() for name in client.server_auth_methods))
        known = ("XOAUTH2",) if server.xoauth2 else _PASSWORD_MECHANISMS
        if usable := [name for name in known if name in offered]:
            return sorted(usable, key=self._unfit.__contains__)
        offer = f"only {mask(', '.join(offered))}" if offered else "no AUTH"
        needed = " or ".join(known) if server.xoauth2 else f"{', '.join(known[:-1])} or {known[-1]}"
        raise SessionError(
            Phase.auth, NO_MECHANISM, f'the server offers {offer}; smtp.auth = "{_auth(server)}" needs {needed}'
        )

    async def _try(self, client: aiosmtplib.SMTP, mechanism: str, server: SmtpServer) -> Reply:
        username = server.username or ""
        if server.grant is None:
            return await sasl.exchange(client, mechanism, username, server.password or "")
        token, is_new = await self._token(server)
        reply = await sasl.exchange(client, mechanism, username, token)
        if not is_new and reply.code // 100 == 5 and sasl.refused(reply) == "login":
            # The provider may have revoked a token before its end.
            self._tokens.forget(server.grant)
            token, _ = await self._token(server)
            reply = await sasl.exchange(client, mechanism, username, token)
        return reply

    async def _token(self, server: SmtpServer) -> tuple[str, bool]:
        assert server.grant is not None
        try:
            return await self._tokens.get(server.grant)
        except ConfigError as error:
            raise self._refused(str(error)) from None
        except OSError as error:
            raise SessionError(Phase.auth, SERVER, str(error)) from None

    def _refused(self, detail: str, verdict: Verdict = CONFIGURATION) -> SessionError:
        pause = _PAUSES_S[min(self._refusals, len(_PAUSES_S) - 1)]
        self._refusals += 1
        self._trusted_until = 0.0
        self.refusal = SessionError(Phase.auth, verdict, detail, pause)
        return self.refusal


def _auth(server: SmtpServer) -> str:
    return "xoauth2" if server.xoauth2 else "password"
