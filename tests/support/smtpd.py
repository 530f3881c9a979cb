"""An SMTP server that does as it is told: it refuses, stalls, drops and answers anything at any point.

    async with Smtpd() as server:
        server.script("rcpt", answer("550 5.1.1 no such user"), recipient="jane@example.org")
        server.script("dot", drop(), message=3)
        ...
        assert [received.recipient for received in server.messages] == [...]

Phases, in their order: connect (before the greeting), greeting, ehlo, tls (the command STARTTLS), auth, rset, mail,
rcpt, data, body (`after` so many of its bytes), dot (the message is complete), idle (the dot is answered), quit.
"""

import asyncio
import base64
import hmac
import socket
import ssl
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal, Self, cast

import trustme
from scramp import ScramException, ScramMechanism

from tests.support import PATIENCE

EXTENSIONS = ("PIPELINING", "SIZE 10485760", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8")


@dataclass(frozen=True)
class Action:
    """Wait for `delay` seconds and for `gate`, answer `reply`, and then: go on, close (FIN) or reset (RST).

    `stalls`: wait until the client goes.

    Without a reply, what would have been answered anyway; `silent`: nothing. `deaf`: read nothing meanwhile.
    `accepts`: take the message, whatever is said about it.
    """

    reply: str | None = None
    delay: float = 0.0
    gate: asyncio.Event | None = None
    then: Literal["go on", "close", "reset"] = "go on"
    silent: bool = False
    deaf: bool = False
    accepts: bool = False
    stalls: bool = False


def answer(*lines: str, then: Literal["go on", "close", "reset"] = "go on") -> Action:
    return Action("\r\n".join(lines), then=then)


def drop(delay: float = 0.0) -> Action:
    return Action(then="reset", silent=True, delay=delay)


def close() -> Action:
    return Action(then="close", silent=True)


def swallow() -> Action:
    """At the dot: the message is accepted, and the reply lost."""
    return Action(then="reset", silent=True, accepts=True)


def stall() -> Action:
    """For ever, or until the client or the server goes."""
    return Action(silent=True, stalls=True)


def wait_for(gate: asyncio.Event) -> Action:
    return Action(gate=gate)


def wait(seconds: float) -> Action:
    return Action(delay=seconds)


@dataclass
class Rule:
    action: Action
    phase: str
    message: int | None
    recipient: str | None
    after: int
    times: int | None


@dataclass(frozen=True)
class Received:
    """A message the server has accepted. `at`: seconds since the epoch. `number`: counts MAIL commands, from 1."""

    number: int
    connection: int
    sender: str
    recipient: str
    mail_parameters: tuple[str, ...]
    rcpt_parameters: tuple[str, ...]
    raw: bytes = field(repr=False)
    at: float

    @property
    def data(self) -> bytes:
        """With the stuffed dots taken out."""
        return (b"\r\n" + self.raw).replace(b"\r\n.", b"\r\n")[2:]

    @property
    def email(self) -> "EmailMessage[Any, Any]":
        return message_from_bytes(self.data, policy=policy.default)


class Smtpd:
    """Listens on a random port of loopback while entered.

    `messages`: what was accepted. `connections`: how many came. `seen`: how often each phase was reached. `cut`: of
    each connection that ended between 354 and the dot, how many bytes of the body had arrived. `early`: what had
    arrived when 354 was about to be said. `pipelined`: commands that came before the reply to the one before.
    `lines`: every command.
    `logins`: mechanism, user and secret of each login that was judged. `refuses`: replies to AUTH by mechanism.
    `plain_asks`: 334 to AUTH PLAIN, whether or not it has an initial response. LOGIN ignores an initial response.
    `scram`: what becomes of each message of the server's in SCRAM-SHA-256.
    `echoes`: a refusal of a login repeats the client's last line. `helo`: HELO is known beside EHLO.
    `in_clear`: the AUTH commands that came without TLS. `throttled`: how often it was said that `most_per_second` messages
    had been accepted. `turned_away`: connections beyond `most_connections`, which were refused at the greeting.
    """

    def __init__(
        self,
        security: Literal["off", "starttls", "tls"] = "off",
        *,
        extensions: Sequence[str] = EXTENSIONS,
        extensions_in_clear: Sequence[str] | None = None,
        users: Mapping[str, str] | None = None,
        auth: str = "PLAIN LOGIN XOAUTH2",
        refuses: Mapping[str, str] | None = None,
        plain_asks: bool = False,
        scram: Callable[[str], str] = lambda message: message,
        prompts: tuple[str, str] = ("Username:", "Password:"),
        echoes: bool = False,
        helo: bool = False,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
        messages_per_connection: int | None = None,
        most_per_second: int | None = None,
        latency: float = 0.0,
        receive_buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.security = security
        self.extensions = tuple(extensions)
        self.extensions_in_clear = self.extensions if extensions_in_clear is None else tuple(extensions_in_clear)
        self.users = users
        self.auth = auth
        self.refuses = dict(refuses or {})
        self.plain_asks = plain_asks
        self.scram = scram
        self.prompts = prompts
        self.echoes = echoes
        self.helo = helo
        self.logins: list[tuple[str, str, str]] = []
        self.messages_per_connection = messages_per_connection
        self.most_per_second = most_per_second
        self.throttled = 0
        self.most_connections: int | None = None
        self.turned_away = 0
        self.latency = latency
        self.receive_buffer = receive_buffer
        self.host = "127.0.0.1"
        self.port = port
        self.messages: list[Received] = []
        self.connections = 0
        self.mails = 0
        self.seen: Counter[str] = Counter()
        self.lines: list[str] = []
        self.early: list[bytes] = []
        self.pipelined: list[str] = []
        self.cut: list[int] = []
        self.in_clear: list[str] = []
        self.crashes: list[Exception] = []
        self.sessions: set[Session] = set()
        self.rules: list[Rule] = []
        self.progress = asyncio.Event()
        self.context: ssl.SSLContext | None = None
        self._names = names
        self._recent: list[float] = []
        self._directory = tempfile.TemporaryDirectory()
        self._server: asyncio.Server | None = None

    @property
    def ca_file(self) -> Path:
        return Path(self._directory.name) / "ca.pem"

    async def __aenter__(self) -> Self:
        if self.security != "off":
            authority = trustme.CA()
            authority.cert_pem.write_to_path(self.ca_file)
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*self._names).configure_cert(self.context)
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse_connections()
        self._directory.cleanup()
        if self.crashes:
            raise self.crashes[0]

    async def listen(self) -> None:
        """(Again) on the same port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Session(self),
            self.host,
            self.port,
            ssl=self.context if self.security == "tls" else None,
            reuse_address=True,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        if self.receive_buffer is not None:
            with duplicate(self._server.sockets[0]) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)

    async def refuse_connections(self) -> None:
        """Stop listening, and cut the open connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [session.task for session in self.sessions]
        for session in list(self.sessions):
            session.reset()
            session.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def script(
        self,
        phase: str,
        action: Action,
        *,
        message: int | None = None,
        recipient: str | None = None,
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """From now on, the first rule that fits is followed; `times` limits how often."""
        self.rules.append(Rule(action, phase, message, recipient, after, times))

    def forget_script(self) -> None:
        self.rules.clear()

    async def until(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Wait until the condition holds; it is looked at whenever something happens at the server."""
        async with asyncio.timeout(timeout):
            while not condition():
                self.progress.clear()
                await self.progress.wait()

    async def reached(self, phase: str, times: int = 1) -> None:
        await self.until(lambda: self.seen[phase] >= times)

    def throttles(self) -> bool:
        now = time.monotonic()
        self._recent = [at for at in self._recent if at > now - 1.0]
        if self.most_per_second is None or len(self._recent) < self.most_per_second:
            self._recent.append(now)
            return False
        self.throttled += 1
        return True

    def rule(self, phase: str, message: int, recipient: str | None, body: int = 0) -> Action | None:
        for rule in self.rules:
            if (
                rule.phase == phase
                and rule.message in (None, message)
                and rule.recipient in (None, recipient)
                and rule.after <= body
                and rule.times != 0
            ):
                if rule.times is not None:
                    rule.times -= 1
                return rule.action
        return None


def duplicate(sock: Any) -> socket.socket:
    """What a transport has for a socket can do next to nothing under uvloop; this one has the same description."""
    return socket.socket(fileno=socket.dup(sock.fileno()))


class _Gone(Exception):
    """The connection has ended, from whichever side."""


class _Cancelled(Exception):
    """The client has cancelled its login (RFC 4954 4)."""


class Session(asyncio.Protocol):
    def __init__(self, server: Smtpd) -> None:
        self.server = server
        self.buffer = b""
        self.secured = server.security == "tls"
        self.accepted = 0
        self.gone = False
        self.sender: str | None = None
        self.recipient: str | None = None
        self.parameters: dict[str, tuple[str, ...]] = {}
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections += 1
        self.number = self.server.connections
        self.server.sessions.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._arrived.set()
        self.server.progress.set()

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self.gone = True
        self._arrived.set()
        self.server.progress.set()

    def reset(self) -> None:
        if self.transport.is_closing():
            self._end()
            return
        with duplicate(self.transport.get_extra_info("socket")) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        self._end()

    async def _serve(self) -> None:
        commands = {
            "EHLO": self._ehlo, "STARTTLS": self._starttls, "AUTH": self._auth, "MAIL": self._mail,
            "RCPT": self._rcpt, "DATA": self._data, "RSET": self._rset, "QUIT": self._quit, "NOOP": self._noop,
        }  # fmt: skip
        if self.server.helo:
            commands["HELO"] = self._helo
        try:
            await self._follow("connect", None)
            if self.server.most_connections is not None and len(self.server.sessions) > self.server.most_connections:
                self.server.turned_away += 1
                await self._say("421 4.7.0 smtpd.test Error: too many connections from 127.0.0.1")
                self.transport.close()
                raise _Gone
            await self._follow("greeting", "220 smtpd.test ESMTP")
            while True:
                line = await self._line()
                self.server.lines.append(line)
                verb, _, rest = line.partition(" ")
                command = commands.get(verb.upper())
                if command is None:
                    await self._say("500 5.5.2 what?")
                else:
                    await command(rest)
        except _Gone:
            pass
        except Exception as crash:
            self.server.crashes.append(crash)
        finally:
            self.transport.abort()
            self.server.sessions.discard(self)
            self.server.progress.set()

    async def _ehlo(self, _: str) -> None:
        known = list(self.server.extensions if self.secured else self.server.extensions_in_clear)
        if self.server.security == "starttls" and not self.secured:
            known.append("STARTTLS")
        if self.server.users is not None:
            known.append(f"AUTH {self.server.auth}")
        lines = ["smtpd.test", *known]
        await self._follow("ehlo", "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]))

    async def _helo(self, _: str) -> None:
        await self._follow("helo", "250 smtpd.test")

    async def _starttls(self, _: str) -> None:
        if await self._follow("tls", "220 2.0.0 go ahead"):
            self.buffer = b""
            context = self.server.context
            assert context is not None
            try:
                transport = await asyncio.get_running_loop().start_tls(self.transport, self, context, server_side=True)
            except OSError:
                raise _Gone from None
            assert transport is not None
            self.transport = transport
            self.secured = True

    async def _auth(self, rest: str) -> None:
        if not self.secured:
            self.server.in_clear.append(rest)
        method, _, initial = rest.partition(" ")
        if method in self.server.refuses:
            await self._say(self.server.refuses[method])
            return
        try:
            user, secret = await self._credentials(method.upper(), initial)
        except _Cancelled:
            await self._say("501 5.7.0 the client has cancelled")
            return
        except KeyError:
            await self._say("504 5.5.4 unknown mechanism")
            return
        good = (self.server.users or {}).get(user) == secret
        self.server.logins.append((method, user, secret))
        bad = f"535 5.7.8 {self.server.lines[-1]}" if self.server.echoes else "535 5.7.8 authentication failed"
        await self._follow("auth", "235 2.7.0 welcome" if good else bad)

    async def _credentials(self, method: str, initial: str) -> tuple[str, str]:
        match method:
            case "PLAIN":
                if self.server.plain_asks or not initial:
                    initial = await self._asked("")
                _, user, secret = base64.b64decode(initial).decode().split("\0")
            case "LOGIN":
                user, secret = [base64.b64decode(await self._asked(prompt)).decode() for prompt in self.server.prompts]
            case "CRAM-MD5":
                challenge = f"<{self.number}.{time.time_ns()}@smtpd.test>"
                user, _, digest = base64.b64decode(await self._asked(challenge)).decode().rpartition(" ")
                known = (self.server.users or {}).get(user, "")
                right = hmac.new(known.encode(), challenge.encode(), "md5").hexdigest()
                secret = known if digest == right else f"another secret: {digest}"
            case "SCRAM-SHA-256":
                user, secret = await self._scram(initial)
            case "XOAUTH2":
                user, secret = (part.partition("=")[2] for part in base64.b64decode(initial).decode().split("\x01")[:2])
                secret = secret.removeprefix("Bearer ")
                if (self.server.users or {}).get(user) != secret:
                    # Google's and Microsoft's way: the error is a challenge, and the client's empty line gets the reply.
                    assert await self._asked('{"status":"400","schemes":"Bearer"}') == ""
            case _:
                raise KeyError(method)
        return user, secret

    async def _scram(self, initial: str) -> tuple[str, str]:
        """The user and the secret by RFC 5802; another secret if the client's proof is wrong."""
        users, mechanism, asked = self.server.users or {}, ScramMechanism("SCRAM-SHA-256"), list[str]()

        def proof_of(user: str) -> tuple[bytes, bytes, bytes, int]:
            asked.append(user)
            made: tuple[bytes, bytes, bytes, int] = mechanism.make_auth_info(users.get(user, "nobody's"))
            return made

        server = mechanism.make_server(proof_of)
        server.set_client_first(base64.b64decode(initial).decode())
        answer = base64.b64decode(await self._asked(self.server.scram(server.get_server_first()))).decode()
        try:
            server.set_client_final(answer)
        except ScramException:
            return asked[0], "another secret"
        assert await self._asked(self.server.scram(server.get_server_final())) == ""
        return asked[0], users.get(asked[0], "")

    async def _asked(self, challenge: str) -> str:
        await self._say("334 " + base64.b64encode(challenge.encode()).decode())
        line = await self._line()
        self.server.lines.append(line)
        if line == "*":
            raise _Cancelled
        return line

    async def _mail(self, rest: str) -> None:
        self.server.mails += 1
        limit = self.server.messages_per_connection
        if limit is not None and self.accepted >= limit:
            await self._say("421 4.7.0 too many messages on this connection")
            self.transport.close()
            raise _Gone
        if self.server.throttles():
            await self._say("454 Throttling failure: Maximum sending rate exceeded.")
            return
        path, *parameters = rest.split(" ")
        if self.sender is not None:
            await self._say("503 5.5.1 nested MAIL")
        elif await self._follow("mail", "250 2.1.0 ok"):
            self.sender = path.removeprefix("FROM:<").removesuffix(">")
            self.parameters["mail"] = tuple(parameters)

    async def _rcpt(self, rest: str) -> None:
        path, *parameters = rest.split(" ")
        recipient = path.removeprefix("TO:<").removesuffix(">")
        if self.sender is None:
            await self._say("503 5.5.1 MAIL first")
        elif await self._follow("rcpt", "250 2.1.5 ok", recipient):
            self.recipient = recipient
            self.parameters["rcpt"] = tuple(parameters)

    async def _data(self, _: str) -> None:
        normal = "354 go ahead" if self.recipient else "503 5.5.1 RCPT first"
        if not await self._follow("data", normal, welcome="3"):
            return
        body = await self._body()
        action = self._reached("dot")
        await self._hold(action)
        reply = action.reply or f"250 2.0.0 Ok: queued as {len(self.server.messages) + 1}"
        # Before it is said: a client that has gone meanwhile gets its mail delivered all the same.
        if action.accepts or (reply.startswith("2") and not action.silent):
            self._accept(body)
        recipient = self.recipient
        self._clear()
        await self._finish(action, reply)
        idle = self._reached("idle", recipient)
        await self._hold(idle)
        await self._finish(idle, None)

    def _accept(self, body: bytes) -> None:
        self.accepted += 1
        self.server.messages.append(
            Received(
                number=self.server.mails,
                connection=self.number,
                sender=self.sender or "",
                recipient=self.recipient or "",
                mail_parameters=self.parameters.get("mail", ()),
                rcpt_parameters=self.parameters.get("rcpt", ()),
                raw=body,
                at=time.time(),
            )
        )
        self.server.progress.set()

    async def _body(self) -> bytes:
        self._count("body")
        body = bytearray()
        followed: list[Action] = []
        try:
            while True:
                start = max(0, len(body) - 4)
                body += self.buffer
                self.buffer = b""
                end = 0 if body.startswith(b".\r\n") else body.find(b"\r\n.\r\n", start) + 2
                if end >= 2 or body.startswith(b".\r\n"):
                    self.buffer = bytes(body[end + 3 :])
                    return bytes(body[:end])
                action = self.server.rule("body", self.server.mails, self.recipient, len(body))
                if action is not None and not any(action is known for known in followed):
                    followed.append(action)
                    await self._hold(action)
                    await self._finish(action, None)
                else:
                    await self._more()
        except _Gone:
            self.server.cut.append(len(body) + len(self.buffer))
            raise

    async def _rset(self, _: str) -> None:
        self._clear()
        await self._follow("rset", "250 2.0.0 ok")

    async def _noop(self, _: str) -> None:
        await self._say("250 2.0.0 ok")

    async def _quit(self, _: str) -> None:
        await self._follow("quit", "221 2.0.0 bye")
        self.transport.close()
        raise _Gone

    def _clear(self) -> None:
        self.sender = self.recipient = None
        self.parameters.clear()

    async def _follow(
        self, phase: str, normal: str | None, recipient: str | None = None, *, welcome: str = "2"
    ) -> bool:
        """Do as scripted, else answer as a server does. True if that was a welcome."""
        action = self._reached(phase, recipient)
        await self._hold(action)
        return (await self._finish(action, normal) or "").startswith(welcome)

    def _reached(self, phase: str, recipient: str | None = None) -> Action:
        self._count(phase)
        return self.server.rule(phase, self.server.mails, recipient or self.recipient) or Action()

    def _count(self, phase: str) -> None:
        self.server.seen[phase] += 1
        self.server.progress.set()

    async def _hold(self, action: Action) -> None:
        if action.deaf:
            self.transport.pause_reading()
        await asyncio.sleep(action.delay)
        if action.gate is None and not action.stalls:
            return
        gate = asyncio.create_task((action.gate or asyncio.Event()).wait())
        try:
            while not gate.done():
                if self.gone:
                    raise _Gone
                self._arrived.clear()
                arrived = asyncio.create_task(self._arrived.wait())
                await asyncio.wait([gate, arrived], return_when=asyncio.FIRST_COMPLETED)
                arrived.cancel()
            gate.result()
        finally:
            gate.cancel()

    async def _finish(self, action: Action, normal: str | None) -> str | None:
        reply = None if action.silent else action.reply or normal
        if reply is not None:
            if reply.startswith("354") and self.buffer:
                self.server.early.append(self.buffer)
            await self._say(reply)
        if action.then == "reset":
            self.reset()
            raise _Gone
        if action.then == "close":
            self.transport.close()
            raise _Gone
        if action.deaf:
            self.transport.resume_reading()
        return reply

    async def _say(self, reply: str) -> None:
        if self.server.latency:
            await asyncio.sleep(self.server.latency)
        if self.buffer:
            self.server.pipelined.append(self.buffer.decode("utf-8", "replace").splitlines()[0])
        if self.transport.is_closing():
            raise _Gone
        self.transport.write(f"{reply}\r\n".encode())

    async def _line(self) -> str:
        while b"\n" not in self.buffer:
            await self._more()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    async def _more(self) -> None:
        if self.gone:
            raise _Gone
        self._arrived.clear()
        await self._arrived.wait()
