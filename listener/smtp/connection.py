"""Handing one message over, so that it is known afterwards whether it was.

MAIL, RCPT and DATA go in one write where the server takes that (RFC 2920), the body only after 354. That reply is
free proof, just before the one write that cannot be taken back, that the peer is alive. What goes wrong before the
final dot has left the process is *not sent*; what goes wrong after that and before the reply is *in doubt*.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from listener.address import Address
from listener.smtp.commands import RESET, Command, body, commands
from listener.smtp.protocol import ConnectionLost, SmtpProtocol
from listener.smtp.replies import CONFIGURATION, SERVER, STALE, Phase, Reply, Scope, Verdict, classify
from listener.smtp.server import SmtpServer, Timeouts
from listener.smtp.session import SessionError, open_session, tls_context

__all__ = [
    "Accepted",
    "InDoubt",
    "NotPermitted",
    "NotSent",
    "Refused",
    "SendOutcome",
    "SessionError",
    "SmtpConnection",
    "SmtpServer",
    "Timeouts",
    "tls_context",
]

# Idle for longer, a connection may have been closed at the other end without a sign.
_FRESH = 1.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has taken the message; the reply may hold its own id for it."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no: certainly not sent.

    What this server cannot take at all (by its size, a non-ASCII address) is refused without asking it, in the words
    it would have used.
    """

    phase: Phase
    reply: Reply
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class NotSent:
    """The connection was lost before the end of the message had left: certainly not sent."""

    phase: Phase
    detail: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """Permission was denied: no byte of the body was written."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The whole message left, and what the server made of it is not known."""

    detail: str


SendOutcome = Accepted | Refused | NotSent | NotPermitted | InDoubt


class SmtpConnection:
    """One session with the server, for one hand-over at a time.

    `used`: hand-overs begun. `opened_at`, `idle_since`: on the loop's clock. `capabilities`: what the server
    announced, in lower case, less what it then refused.
    """

    def __init__(self, server: SmtpServer, transport: asyncio.Transport, capabilities: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = server.timeouts
        self._protocol = SmtpProtocol(transport, self._loop)
        self._busy = False
        self._reset_due = False
        self.capabilities = capabilities
        self.used = 0
        self.opened_at = self.idle_since = self._loop.time()

    @classmethod
    async def open(cls, server: SmtpServer, tls: ssl.SSLContext) -> Self:
        """Connect, secure, greet and log in. Raises `ServerTrouble`."""
        return cls(server, *await open_session(server, tls))

    @property
    def usable(self) -> bool:
        """Whether a hand-over may begin: open, idle, and nothing said by the server that was not asked for."""
        return not self._busy and self._protocol.lost is None

    async def send(
        self,
        sender: Address,
        recipient: Address,
        message: bytes,
        permission: Callable[[], Awaitable[bool]],
        key: str,
    ) -> SendOutcome:
        """Hand over one message (RFC 5322, CRLF lines, not dot-stuffed) to one recipient.

        `permission` is awaited after 354 and before the first byte of the body. Where it is not given, or raises, or
        the task is cancelled up to then, the connection is cut and nothing was sent. After that, cancelling the task
        does not end the wait for the reply, and the outcome is returned all the same; `abort()` ends the wait. The
        task can still learn that it was cancelled: `asyncio.current_task().cancelling()`.
        """
        if self._busy:
            raise RuntimeError("a connection makes one hand-over at a time")
        try:
            data = body(message)
        except ValueError as error:
            return _refusal(Phase.data, Reply(554, "5.6.0", str(error)))
        if unfit := self._unfit(sender, recipient, len(message)):
            return unfit
        self._busy = True
        try:
            if failure := await self._envelope(sender, recipient, len(message), key):
                return failure
            if not await permission():
                self.abort()
                return NotPermitted()
            if self._protocol.lost is not None:
                return NotSent(Phase.data, self._protocol.lost, SERVER)
            # Nothing may be awaited between permission and this write: it was given for now.
            self._protocol.send(data)
            return await self._outcome()
        except BaseException:
            self.abort()
            raise
        finally:
            self._busy = False
            self.idle_since = self._loop.time()

    async def close(self) -> None:
        """Say QUIT and wait a little for the answer. What the server makes of it is no error."""
        try:
            if self.usable:
                self._protocol.send(b"QUIT\r\n")
                await self._protocol.reply(self._timeouts.quit)
        except ConnectionLost:
            pass
        finally:
            self._protocol.fail("closed")

    def abort(self) -> None:
        """Cut the connection at once. A hand-over that waits for the reply to its dot ends in doubt."""
        self._protocol.fail("cut from this side")

    def _unfit(self, sender: Address, recipient: Address, size: int) -> Refused | None:
        limit = self.capabilities.get("size", "")
        if limit.isdecimal() and len(limit) < 20 and 0 < int(limit) < size:
            return _refusal(Phase.mail, Reply(552, "5.3.4", f"{size} octets, and the server takes {int(limit)}"))
        if "smtputf8" not in self.capabilities:
            reply = Reply(553, "5.6.7", "a non-ASCII address, and the server does not announce SMTPUTF8")
            if sender.needs_smtputf8:
                return Refused(Phase.mail, reply, CONFIGURATION)
            if recipient.needs_smtputf8:
                return _refusal(Phase.rcpt, reply)
        return None

    async def _envelope(self, sender: Address, recipient: Address, size: int, key: str) -> Refused | NotSent | None:
        """Get as far as 354. Whatever ends otherwise is certainly not sent."""
        wire, timeouts = self._protocol, self._timeouts
        reused = self.used > 0 or self._loop.time() - self.idle_since > _FRESH
        self.used += 1
        steps = commands(sender, recipient, size, key, self.capabilities)
        if self._reset_due:
            steps = (RESET, *steps)
        pipelined = "pipelining" in self.capabilities
        if pipelined:
            wire.send(b"".join(step.line for step in steps), len(steps))
        refused: Refused | None = None
        for step in steps:
            if not pipelined:
                wire.send(step.line)
            try:
                reply = await wire.reply(timeouts.data if step.phase is Phase.data else timeouts.command)
            except ConnectionLost as lost:
                verdict = STALE if reused and step.phase is Phase.mail else SERVER
                return refused or NotSent(step.phase, str(lost), verdict)
            if step.welcome in (reply.code, reply.code // 100):
                continue
            if reply.code < 400:
                self.abort()
                return refused or NotSent(step.phase, f"the server answered {step.phase} with {reply}", SERVER)
            refused = refused or self._refuse(step, reply, reused=reused)
            if not pipelined:
                break
        else:
            if refused and reply.code < 400:
                # 354, and no recipient. The lone dot that RFC 2920 3.1 allows here has been delivered as an
                # empty mail; a closed connection never is.
                self.abort()
        # A refused RCPT or DATA leaves its transaction open.
        self._reset_due = refused is not None
        return refused

    def _refuse(self, step: Command, reply: Reply, *, reused: bool) -> Refused:
        # RSET is no part of the message: refusing it says only that the connection is not what it seemed.
        known = STALE if step is RESET else None
        verdict = known or classify(step.phase, reply, reused=reused, extended=bool(step.extensions))
        if verdict.scope is Scope.capability:
            # What can be done without goes first: without SMTPUTF8 the message would fail.
            for extension in [each for each in step.extensions if each != "smtputf8"] or step.extensions:
                self.capabilities.pop(extension, None)
        if reply.code == 421 or verdict.scope in (Scope.server, Scope.configuration, Scope.stale):
            self.abort()
        return Refused(step.phase, reply, verdict)

    async def _outcome(self) -> Accepted | Refused | NotSent | InDoubt:
        wire = self._protocol
        try:
            reply = await wire.reply(self._timeouts.dot, steadfast=True)
        except ConnectionLost as lost:
            return NotSent(Phase.dot, str(lost), SERVER) if wire.unsent else InDoubt(str(lost))
        if wire.unsent:
            # Said before all was heard. What is still here must not be taken for commands.
            self.abort()
            if reply.code < 400:
                return NotSent(Phase.dot, f"the server answered half the message with {reply}", SERVER)
        if reply.code >= 400:
            return self._refuse(Command(Phase.dot, b""), reply, reused=False)
        if reply.code >= 300:
            self.abort()
            return InDoubt(f"the server answered the message with {reply}")
        return Accepted(reply)


def _refusal(phase: Phase, reply: Reply) -> Refused:
    return Refused(phase, reply, classify(phase, reply, reused=False))
