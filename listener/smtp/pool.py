"""The pool of SMTP connections: it opens them when needed, reuses them, and reports each outcome to the breaker."""

import asyncio
import random
import ssl
from dataclasses import replace

from listener import metrics
from listener.smtp.breaker import Breaker
from listener.smtp.connection import SmtpConnection
from listener.smtp.connection_limit import ConnectionLimit
from listener.smtp.judge import Judge
from listener.smtp.logins import Logins
from listener.smtp.outcome import NotPermitted, NotSent, Refused, SendOutcome, describe
from listener.smtp.replies import Scope
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from listener.smtp.session import ServerMemory
from listener.smtp.session_error import SessionError
from listener.smtp.verdicts import SERVER, THROTTLED

# Many servers end a connection with 421 after some number of messages. We close it first, so that no message meets
# that limit. At 100 messages a new connection costs little per message.
MAX_MESSAGES_PER_CONNECTION = 100
# As in Postfix (smtp_connection_reuse_time_limit). Within this time connections follow a change of the server's DNS.
MAX_CONNECTION_AGE_S = 300.0
# Amazon SES cuts a connection that was idle for about 10 s.
MAX_IDLE_S = 5.0
# Postfix answers slowly after ten errors on a connection (smtpd_soft_error_limit), and each refused message is two: RCPT
# and DATA. A message that is accepted sets its count to zero.
MAX_REFUSALS_PER_CONNECTION = 4
_MAX_RETRIES = 2


class SmtpPool:
    """Sends messages to one server over at most `size` connections.

    A connection is closed after 100 messages, after 4 refusals in a row, after 300 s ± 10 %, or after 5 s without work.
    While a refusal may concern every message, the others go one at a time.
    """

    def __init__(
        self, server: SmtpServer, tls: ssl.SSLContext, size: int, breaker: Breaker, logins: Logins | None = None
    ) -> None:
        self._server = server
        self._tls = tls
        self._limit = ConnectionLimit(size)
        self._idle: list[SmtpConnection] = []
        self._busy: set[SmtpConnection] = set()
        self._breaker = breaker
        self._judge = Judge(breaker)
        self._one_at_a_time = asyncio.Lock()
        self._memory = ServerMemory(logins)
        self._sweeper: asyncio.TimerHandle | None = None

    async def send(self, sending: Sending) -> SendOutcome:
        """Send one message, as `SmtpConnection.send` does.

        The message is retried at once, at most twice, if the connection was stale or the server refused an extension
        that it had announced. It is also retried if the server allows fewer connections. In all cases it was certainly
        not sent. Nothing is sent, and the outcome is `NotPermitted`, if the breaker opened meanwhile.

        If `may_begin` returns False, the connection stays open, so that the next message need not wait for one.
        """
        if self._judge.is_guessing:
            async with self._one_at_a_time:
                if self._judge.is_guessing:
                    return await self._send_unless_open(sending)
        return await self._send_unless_open(sending)

    async def _send_unless_open(self, sending: Sending) -> SendOutcome:
        if self._breaker.is_open:
            return NotPermitted()
        begun = asyncio.get_running_loop().time()
        outcome = self._judge.judge(await self._send_or_retry(sending), sending)
        metrics.message_sent(asyncio.get_running_loop().time() - begun)
        return outcome

    async def _send_or_retry(self, sending: Sending) -> SendOutcome:
        retries = _MAX_RETRIES
        while True:
            async with self._limit:
                try:
                    outcome = await self._send(sending)
                except SessionError as failure:
                    outcome = NotSent(failure.phase, failure.detail, failure.verdict)
                    if failure.pause is not None:
                        self._breaker.pause(failure.pause, describe(outcome), failure.verdict.scope)
                if not isinstance(outcome, NotSent | Refused):
                    return outcome
                scope = outcome.verdict.scope
                if scope is Scope.connections:
                    if self._limit.lower(describe(outcome)):
                        continue
                    # There is no other connection, so this is no matter of their number.
                    is_session = isinstance(outcome, NotSent)
                    return replace(outcome, verdict=SERVER if is_session else THROTTLED)
            if scope not in (Scope.stale, Scope.capability) or not retries:
                return outcome
            retries -= 1
            if scope is Scope.stale:
                # The event that ended this connection has most likely ended the others. Trying them one by one would
                # use up the retries.
                idle, self._idle = self._idle, []
                self._close_in_background(idle)

    async def _send(self, sending: Sending) -> SendOutcome:
        connection = self._take_idle() or await self._open()
        self._busy.add(connection)
        try:
            outcome = await connection.send(sending)
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
            and connection.refused < MAX_REFUSALS_PER_CONNECTION
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
            closing.add_done_callback(lambda task: task.cancelled() or task.exception())

    def abort(self) -> None:
        """Cut all busy connections. A message whose dot has left ends in doubt; any other was not sent."""
        for connection in self._busy:
            connection.abort()

    async def close(self) -> None:
        """Close all idle connections with QUIT. Call it when nothing is in flight."""
        self._limit.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for connection in idle), return_exceptions=True)
