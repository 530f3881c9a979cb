"""One SMTP connection. After each message it is known whether the message was sent, or that it is in doubt.

MAIL, RCPT and DATA go in one write if the server supports that (PIPELINING, RFC 2920). The body follows only after the
reply 354. This reply proves that the peer is alive, just before the one write that cannot be taken back.

An error before the final dot has left the process means *not sent*. An error after that, and before the reply, means
*in doubt*.
"""

import asyncio
import ssl
from dataclasses import replace
from typing import Self

from listener.smtp.commands import RESET, Command, body, commands
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.protocol import ConnectionLost, SmtpProtocol
from listener.smtp.replies import Phase, Reply, Scope
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from listener.smtp.session import ServerMemory, open_session
from listener.smtp.verdicts import CONFIGURATION, SERVER, STALE, classify

# A connection that was idle for longer may have been closed by the server without our noticing. Under load the next
# message follows within milliseconds.
_MAX_FRESH_S = 1.0
# A SIZE with more digits is larger than any message. Converting a very long number would only cost time.
_MAX_SIZE_DIGITS = 19
# Every server must take a message of 64 KiB (RFC 5321 4.5.3.1.7).
_LEAST_SIZE = 65_536
_CLOSING = 421
_ABSURD_SIZE = replace(CONFIGURATION, remedy="raise the mail server's message size limit")


class SmtpConnection:
    """An open session with the server, for one message at a time.

    `capabilities` is what the server announced, in lower case, without the extensions that it refused later. `used` is
    the number of messages begun, and `refused` how many were refused since the last accepted one. `local_address` is this
    end's IP address. `opened_at` and `idle_since` are times of the running loop's clock, in seconds.
    """

    def __init__(self, server: SmtpServer, transport: asyncio.Transport, capabilities: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = server.timeouts
        self._protocol = SmtpProtocol(transport, self._loop)
        self._busy = False
        self._reset_due = False
        self.local_address = str((transport.get_extra_info("sockname") or ("",))[0])
        self.capabilities = capabilities
        self.used = self.refused = 0
        self.opened_at = self.idle_since = self._loop.time()

    @classmethod
    async def open(cls, server: SmtpServer, tls: ssl.SSLContext, memory: ServerMemory | None = None) -> Self:
        """Open a connection: TCP, TLS, greeting, EHLO and AUTH. `memory` is that of former connections.

        Raises:
            SessionError: There is no session.
        """
        return cls(server, *await open_session(server, tls, memory))

    @property
    def usable(self) -> bool:
        """Return whether the next message may begin: the connection is open and idle, and the server has sent nothing."""
        return not self._busy and self._protocol.lost is None

    async def send(self, sending: Sending) -> SendOutcome:
        """Send one message to one recipient.

        `may_begin` is asked just before MAIL. If it returns False, the connection stays usable.

        `permission` is awaited after 354 and before the first byte of the body. If it returns False or raises, or if
        the task is cancelled up to then, the connection is cut and nothing was sent.

        After that, cancelling the task does not end the wait for the reply, and the outcome is returned all the same.
        Only `abort()` ends the wait. The task can still learn that it was cancelled, from
        `asyncio.current_task().cancelling()`.

        Raises:
            RuntimeError: Another message is in flight on this connection.
        """
        if self._busy:
            raise RuntimeError("the connection is busy: it sends one message at a time")
        try:
            data = body(sending.raw)
        except ValueError as error:
            return _refusal(Phase.data, Reply(554, "5.6.0", str(error)))
        if refused := self._check_capabilities(sending):
            return refused
        self._busy = True
        try:
            if failure := await self._send_commands(sending):
                return failure
            if not await sending.permission():
                self.abort()
                return NotPermitted()
            if self._protocol.lost is not None:
                return NotSent(Phase.data, self._protocol.lost, SERVER)
            # Nothing may be awaited between permission and this write. The permission is good for this moment only.
            self._protocol.send(data)
            return await self._read_outcome(sending)
        except BaseException:
            self.abort()
            raise
        finally:
            self._busy = False
            self.idle_since = self._loop.time()

    async def close(self) -> None:
        """Send QUIT, wait briefly for the reply, and close the connection. An error from the server is ignored."""
        try:
            if self.usable:
                self._protocol.send(b"QUIT\r\n")
                await self._protocol.reply(self._timeouts.quit)
        except ConnectionLost:
            pass
        finally:
            self._protocol.fail("closed")

    def abort(self) -> None:
        """Cut the connection at once. A message that waits for the reply to its dot ends in doubt."""
        self._protocol.fail("the connection was cut from this side")

    def _check_capabilities(self, sending: Sending) -> Refused | None:
        """Return a refusal if the server announced that it cannot take this message."""
        size = len(sending.raw)
        limit = self.capabilities.get("size", "")
        if limit.isdecimal() and len(limit) <= _MAX_SIZE_DIGITS and 0 < int(limit) < size:
            if size <= _LEAST_SIZE:
                text = f"the server announces SIZE {int(limit)}; it must take messages of {_LEAST_SIZE} octets"
                return Refused(Phase.ehlo, Reply(552, "5.3.4", text), _ABSURD_SIZE)
            text = f"the message has {size} octets; the server takes at most {int(limit)}"
            return _refusal(Phase.mail, Reply(552, "5.3.4", text))
        if "smtputf8" not in self.capabilities:
            reply = Reply(553, "5.6.7", "the address is not ASCII, and the server does not announce SMTPUTF8")
            if sending.sender.needs_smtputf8:
                return Refused(Phase.mail, reply, CONFIGURATION)
            if sending.recipient.needs_smtputf8:
                return _refusal(Phase.rcpt, reply)
        return None

    async def _send_commands(self, sending: Sending) -> Refused | NotSent | NotPermitted | None:
        """Send MAIL, RCPT and DATA. Return None after 354; any other result means certainly not sent."""
        protocol, timeouts = self._protocol, self._timeouts
        reused = self.used > 0 or self._loop.time() - self.idle_since > _MAX_FRESH_S
        steps = envelope = commands(
            sending.sender, sending.recipient, len(sending.raw), sending.message_id, self.capabilities
        )
        if self._reset_due:
            steps = (RESET, *envelope)
        pipelined = "pipelining" in self.capabilities
        beginning = steps[0] if pipelined else envelope[0]
        refused: Refused | None = None
        for step in steps:
            if step is beginning:
                # Nothing may be awaited between this question and the write of MAIL.
                if not sending.may_begin():
                    return NotPermitted()
                self.used += 1
            if not pipelined:
                protocol.send(step.line)
            elif step is beginning:
                protocol.send(b"".join(each.line for each in steps), len(steps))
            try:
                reply = await protocol.reply(timeouts.data if step.phase is Phase.data else timeouts.command)
            except ConnectionLost as lost:
                verdict = STALE if reused and step.phase is Phase.mail else SERVER
                return refused or NotSent(step.phase, str(lost), verdict)
            if step.expected in (reply.code, reply.code // 100):
                # A server that is slow to answer RSET must not be asked again for the same message.
                self._reset_due &= step is not RESET
                continue
            if reply.code < 400:
                self.abort()
                return refused or NotSent(step.phase, f"the server answered {step.phase} with {reply}", SERVER)
            refused = refused or self._refuse(sending, step, reply, reused=reused)
            if reply.code == _CLOSING:
                # RFC 5321 3.8: the server closes the channel. Some leave it open and answer nothing more.
                self.abort()
            if not pipelined:
                break
        else:
            if refused and reply.code < 400:
                # The server said 354 although it has no recipient. RFC 2920 3.1 allows a lone dot here, but servers
                # have delivered that as an empty message. They never do so with a connection that is cut.
                self.abort()
        # After a refused RCPT or DATA the server's transaction stays open, and the next MAIL would be refused.
        self._reset_due = refused is not None
        return refused

    def _refuse(self, sending: Sending, step: Command, reply: Reply, *, reused: bool) -> Refused:
        # RSET is no part of the message. A server that refuses it has lost the session.
        known = STALE if step is RESET else None
        verdict = known or classify(step.phase, reply, reused=reused, extended=bool(step.extensions))
        if verdict.reason == "too_large" and len(sending.raw) > _LEAST_SIZE:
            verdict = replace(verdict, if_shared=None)
        if verdict.scope is Scope.capability:
            # Drop the optional extensions first. Without SMTPUTF8 the message could not be sent at all.
            for extension in [each for each in step.extensions if each != "smtputf8"] or step.extensions:
                self.capabilities.pop(extension, None)
        self.refused += 1
        if reply.code == _CLOSING or verdict.scope in (Scope.server, Scope.configuration, Scope.stale):
            self.abort()
        return Refused(step.phase, reply, verdict)

    async def _read_outcome(self, sending: Sending) -> Accepted | Refused | NotSent | InDoubt:
        """Wait for the reply to the dot."""
        protocol = self._protocol
        try:
            reply = await protocol.reply(self._timeouts.dot, shielded=True)
        except ConnectionLost as lost:
            return NotSent(Phase.dot, str(lost), SERVER) if protocol.unsent else InDoubt(str(lost))
        if protocol.unsent:
            # The server replied before it had the whole message. It must not take the rest for commands.
            self.abort()
            if reply.code < 400:
                return NotSent(Phase.dot, f"the server answered half the message with {reply}", SERVER)
        if reply.code >= 400:
            return self._refuse(sending, Command(Phase.dot, b""), reply, reused=False)
        if reply.code >= 300:
            self.abort()
            return InDoubt(f"the server answered the message with {reply}")
        self.refused = 0
        return Accepted(reply)


def _refusal(phase: Phase, reply: Reply) -> Refused:
    """Return a refusal in the server's place."""
    return Refused(phase, reply, replace(classify(phase, reply, reused=False), if_shared=None))
