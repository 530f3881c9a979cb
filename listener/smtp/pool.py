"""The pool of SMTP connections: it opens them when needed, reuses them, and reports each outcome to the breaker."""

import asyncio
import random
import re
import ssl

from listener import metrics
from listener.address import Address
from listener.smtp.breaker import Breaker
from listener.smtp.connection import SmtpConnection
from listener.smtp.logins import Logins
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Permission, Refused, SendOutcome
from listener.smtp.replies import Phase, Scope, Verdict
from listener.smtp.server import SmtpServer
from listener.smtp.session import ServerMemory
from listener.smtp.session_error import SessionError

# Many servers end a connection with 421 after some number of messages. We close it first, so that no message meets
# that limit. At 100 messages a new connection costs little per message.
MAX_MESSAGES_PER_CONNECTION = 100
# As in Postfix (smtp_connection_reuse_time_limit). Within this time connections follow a change of the server's DNS.
MAX_CONNECTION_AGE_S = 300.0
# Amazon SES cuts a connection that was idle for about 10 s.
MAX_IDLE_S = 5.0
# One or two recipients may be refused for their own sake. Three in a row mean that the server relays for no recipient.
_MAX_RELAY_DENIALS = 3
# The pause for a used-up quota if the verdict has no delay of its own.
_QUOTA_PAUSE_S = 600.0


class SmtpPool:
    """Sends messages to one server over at most `size` connections.

    A connection is closed after 100 messages, after 300 s ± 10 %, or after 5 s without work.
    """

    def __init__(
        self, server: SmtpServer, tls: ssl.SSLContext, size: int, breaker: Breaker, logins: Logins | None = None
    ) -> None:
        self._server = server
        self._tls = tls
        self._free = asyncio.Semaphore(size)
        self._idle: list[SmtpConnection] = []
        self._busy: set[SmtpConnection] = set()
        self._breaker = breaker
        self._memory = ServerMemory(logins)
        self._relay_denials = 0
        self._sweeper: asyncio.TimerHandle | None = None

    async def send(
        self, sender: Address, recipient: Address, raw: bytes, permission: Permission, message_id: str
    ) -> SendOutcome:
        """Send one message, as `SmtpConnection.send` does.

        The message is retried at once, at most twice, if the connection was stale or the server refused an extension
        that it had announced. In both cases it was certainly not sent.
        """
        begun = asyncio.get_running_loop().time()
        for may_retry in (True, True, False):
            try:
                outcome = await self._send(sender, recipient, raw, permission, message_id)
            except SessionError as failure:
                outcome = NotSent(failure.phase, failure.detail, failure.verdict)
                if failure.pause is not None:
                    self._breaker.pause(failure.pause, _describe(outcome), failure.verdict.scope)
            if not (
                may_retry
                and isinstance(outcome, NotSent | Refused)
                and outcome.verdict.scope in (Scope.stale, Scope.capability)
            ):
                break
            if outcome.verdict.scope is Scope.stale:
                # The event that ended this connection has most likely ended the others. Trying them one by one would
                # use up the retries.
                idle, self._idle = self._idle, []
                self._close_in_background(idle)
        self._report(outcome)
        _count(outcome)
        metrics.message_sent(asyncio.get_running_loop().time() - begun)
        return outcome

    async def _send(
        self, sender: Address, recipient: Address, raw: bytes, permission: Permission, message_id: str
    ) -> SendOutcome:
        async with self._free:
            connection = self._take_idle() or await self._open()
            self._busy.add(connection)
            try:
                outcome = await connection.send(sender, recipient, raw, permission, message_id)
            except BaseException:
                connection.abort()
                raise
            finally:
                self._busy.discard(connection)
            now = asyncio.get_running_loop().time()
            max_age = MAX_CONNECTION_AGE_S * random.uniform(0.9, 1.1)  # noqa: S311 - spreads reconnects, guards nothing
            if (
                connection.usable
                and connection.used < MAX_MESSAGES_PER_CONNECTION
                and now - connection.opened_at < max_age
            ):
                self._idle.append(connection)
                self._schedule_sweep()
            else:
                await connection.close()
            return outcome

    async def _open(self) -> SmtpConnection:
        refusal = self._memory.logins.refusal
        if refusal is not None and self._breaker.is_open:
            # This message waited for a connection when the login was refused. It must not try the login again.
            raise SessionError(refusal.phase, refusal.verdict, refusal.detail)
        return await SmtpConnection.open(self._server, self._tls, self._memory)

    def _take_idle(self) -> SmtpConnection | None:
        # Take the one used last. Connections that the load does not need then stay idle and are closed.
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    def _schedule_sweep(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(MAX_IDLE_S / 2, self._sweep)

    def _sweep(self) -> None:
        """Close the connections that were idle too long."""
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        expired = [c for c in self._idle if now - c.idle_since >= MAX_IDLE_S or not c.usable]
        self._idle = [c for c in self._idle if c not in expired]
        self._close_in_background(expired)
        if self._idle:
            self._schedule_sweep()

    def _close_in_background(self, connections: list[SmtpConnection]) -> None:
        for connection in connections:
            closing = asyncio.get_running_loop().create_task(connection.close(), name="smtp-close")
            closing.add_done_callback(lambda task: task.exception())

    def _report(self, outcome: SendOutcome) -> None:
        """Report the outcome to the breaker."""
        match outcome:
            case Accepted():
                self._relay_denials = 0
                self._breaker.succeeded()
            case Refused(_, _, verdict) | NotSent(_, _, verdict):
                self._report_failure(verdict, _describe(outcome))
            case InDoubt(detail):
                self._breaker.failed(Scope.server, detail)
            case NotPermitted():
                pass

    def _report_failure(self, verdict: Verdict, detail: str) -> None:
        if verdict.scope is Scope.quota:
            self._breaker.pause(verdict.delay or _QUOTA_PAUSE_S, detail)
        elif verdict.scope in (Scope.server, Scope.configuration, Scope.stale, Scope.capability):
            self._breaker.failed(verdict.scope, detail)
        elif verdict.reason == "relay_denied":
            self._relay_denials += 1
            if self._relay_denials >= _MAX_RELAY_DENIALS:
                self._breaker.failed(Scope.configuration, detail)
        else:
            # The server works: it refused this message for its own sake, or asked for a lower rate. The rate limit
            # handles the latter.
            self._relay_denials = 0
            self._breaker.succeeded()

    def abort(self) -> None:
        """Cut all busy connections. A message whose dot has left ends in doubt; any other was not sent."""
        for connection in self._busy:
            connection.abort()

    async def close(self) -> None:
        """Close all idle connections with QUIT. Call it when nothing is in flight."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for connection in idle), return_exceptions=True)


def _count(outcome: SendOutcome) -> None:
    match outcome:
        case Accepted(reply):
            metrics.replied(Phase.dot, reply.code)
        case Refused(phase, reply, _):
            metrics.replied(phase, reply.code)
        case NotSent(phase, detail, _):
            # If opening the session failed, the server's reply is only in the text.
            code = re.match(r"[2-5]\d\d ", detail)
            metrics.replied(phase, int(code[0]) if code else None)
        case InDoubt():
            metrics.replied(Phase.dot, None)


def _describe(outcome: Refused | NotSent) -> str:
    """Return the phase and the error, with the remedy if this error has one of its own."""
    match outcome:
        case Refused(phase, reply, _):
            return f"{phase}: {reply}"
        case NotSent(phase, detail, verdict):
            return f"{phase}: {detail}; {verdict.remedy}" if verdict.remedy else f"{phase}: {detail}"
