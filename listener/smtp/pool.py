"""The pool of SMTP connections: lazy, reused, recycled; and the one place where the breaker is fed."""

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable

from listener import metrics
from listener.address import Address
from listener.smtp.breaker import Breaker
from listener.smtp.connection import (
    Accepted,
    InDoubt,
    NotPermitted,
    NotSent,
    Refused,
    SendOutcome,
    SessionError,
    SmtpConnection,
    SmtpServer,
)
from listener.smtp.replies import Phase, Scope, Verdict

MAX_MESSAGES_PER_CONNECTION = 100
MAX_CONNECTION_AGE_S = 300.0
MAX_IDLE_S = 5.0
_RELAY_DENIED_IN_A_ROW = 3


class SmtpPool:
    """Hands messages to one server over at most `size` connections.

    Recycled after 100 messages or 300 s ± 10 %; dropped after 5 s of idleness (Amazon SES cuts at about 10).
    """

    def __init__(self, server: SmtpServer, tls: ssl.SSLContext, size: int, breaker: Breaker) -> None:
        self._server = server
        self._tls = tls
        self._free = asyncio.Semaphore(size)
        self._idle: list[SmtpConnection] = []
        self._busy: set[SmtpConnection] = set()
        self._breaker = breaker
        self._relay_denials = 0
        self._sweeper: asyncio.TimerHandle | None = None

    async def send(
        self, sender: Address, recipient: Address, message: bytes, permission: Callable[[], Awaitable[bool]], key: str
    ) -> SendOutcome:
        """One message, once. A connection that turns out stale, or cannot do what it announced, is tried anew at once."""
        begun = asyncio.get_running_loop().time()
        for again in (True, True, False):
            try:
                outcome = await self._send(sender, recipient, message, permission, key)
            except SessionError as outage:
                outcome = NotSent(outage.phase, outage.detail, outage.verdict)
            if not (
                again
                and isinstance(outcome, NotSent | Refused)
                and outcome.verdict.scope in (Scope.stale, Scope.capability)
            ):
                break
            if outcome.verdict.scope is Scope.stale:
                # What ended this one has most likely ended the others, and one after the other would find that out.
                idle, self._idle = self._idle, []
                self._give_up(idle)
        self._learn(outcome)
        _count(outcome)
        metrics.message_sent(asyncio.get_running_loop().time() - begun)
        return outcome

    async def _send(
        self, sender: Address, recipient: Address, message: bytes, permission: Callable[[], Awaitable[bool]], key: str
    ) -> SendOutcome:
        async with self._free:
            connection = self._reusable() or await SmtpConnection.open(self._server, self._tls)
            self._busy.add(connection)
            try:
                outcome = await connection.send(sender, recipient, message, permission, key)
            except BaseException:
                connection.abort()
                raise
            finally:
                self._busy.discard(connection)
            now = asyncio.get_running_loop().time()
            limit = MAX_CONNECTION_AGE_S * random.uniform(0.9, 1.1)  # noqa: S311 - spreads reconnects, guards nothing
            if (
                connection.usable
                and connection.used < MAX_MESSAGES_PER_CONNECTION
                and now - connection.opened_at < limit
            ):
                self._idle.append(connection)
                self._sweep_later()
            else:
                await connection.close()
            return outcome

    def _reusable(self) -> SmtpConnection | None:
        # The last used first: what is too many falls idle and is dropped.
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(MAX_IDLE_S / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        stale = [c for c in self._idle if now - c.idle_since >= MAX_IDLE_S or not c.usable]
        self._idle = [c for c in self._idle if c not in stale]
        self._give_up(stale)
        if self._idle:
            self._sweep_later()

    def _give_up(self, connections: list[SmtpConnection]) -> None:
        """Close them, and let nobody wait for it."""
        for connection in connections:
            closing = asyncio.get_running_loop().create_task(connection.close())
            closing.add_done_callback(lambda task: task.exception())

    def _learn(self, outcome: SendOutcome) -> None:
        match outcome:
            case Accepted():
                self._relay_denials = 0
                self._breaker.succeeded()
            case Refused(_, _, verdict) | NotSent(_, _, verdict):
                self._blame(verdict, _words(outcome))
            case InDoubt(detail):
                self._breaker.failed(Scope.server, detail)
            case NotPermitted():
                pass

    def _blame(self, verdict: Verdict, detail: str) -> None:
        if verdict.scope is Scope.quota:
            self._breaker.hold_open(verdict.delay or 600.0, detail)
        elif verdict.scope in (Scope.server, Scope.configuration, Scope.stale, Scope.capability):
            self._breaker.failed(verdict.scope, detail)
        elif verdict.reason == "relay_denied":
            self._relay_denials += 1
            if self._relay_denials >= _RELAY_DENIED_IN_A_ROW:
                self._breaker.failed(Scope.configuration, detail)
        else:
            # It answered for this message, or about the rate, which is not the breaker's: the server is well.
            self._relay_denials = 0
            self._breaker.succeeded()

    def abort(self) -> None:
        """Cut what is on the wire: before the dot that is not sent, after it in doubt."""
        for connection in self._busy:
            connection.abort()

    async def close(self) -> None:
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
            # Where no session came about, the reply is only in the words.
            code = re.match(r"[2-5]\d\d ", detail)
            metrics.replied(phase, int(code[0]) if code else None)
        case InDoubt():
            metrics.replied(Phase.dot, None)


def _words(outcome: Refused | NotSent) -> str:
    match outcome:
        case Refused(phase, reply, _):
            return f"{phase}: {reply}"
        case NotSent(phase, detail, _):
            return f"{phase}: {detail}"
