"""Whatever a server says, in whatever pieces, and whenever it goes: what is told about a message is true.

The server is a transport in memory, time is not waited for, and what was said is read here a second time, slowly, so that
the two can disagree.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from listener.address import parse_address
from listener.smtp.commands import body
from listener.smtp.connection import SmtpConnection
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from tests.support.clock import JumpingLoop

T = TypeVar("T")
SENDER, JANE = parse_address("no-reply@example.org"), parse_address("jane@example.com")
MESSAGE = b"Subject: x\r\n\r\n.hello\r\n..\r\n.\r\nMAIL FROM:<x@y>\r\n"
SERVER = SmtpServer("localhost", 25, "off", ehlo_name="client.test")
BUDGET = settings(
    max_examples=max(1000, settings.default.max_examples if settings.default else 0),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

REPLIES = [
    b"250 2.0.0 ok\r\n", b"250-2.0.0 well\r\n250 2.0.0 ok\r\n", b"250\r\n", b"354 go ahead\r\n", b"250 ok\n",
    b"250 half of it", b"421 4.3.0 closing\r\n", b"450 later\r\n", b"454 4.7.0 Throttling\r\n", b"451 4.4.2 Timeout\r\n",
    b"501 5.5.4 parameter\r\n", b"503 5.5.1 sequence\r\n", b"550 5.1.1 no\r\n", b"550 5.7.1 relay denied\r\n",
    b"552 5.3.4 big\r\n", b"250-ok\r\n550 no\r\n", b"250-more\r\n", b"25", b"250", b"hello\r\n", b"\r\n", b"\n", b"\0\xff\r\n",
    b"150 what\r\n", b"650 what\r\n", b"250ok\r\n", b"250 " + b"x" * 5000, b"250-x\r\n" * 130, b"334 \r\n", b"220 hi\r\n",
]  # fmt: skip
_LINE = re.compile(rb"[2-5][0-9][0-9]([ -].*)?", re.DOTALL)


def read(said: bytes) -> Iterator[int]:
    """The codes of the complete replies, as RFC 5321 4.2 has them; 0 for what is none, and then nothing more."""
    code = b""
    for line in said.split(b"\n")[:-1]:
        line = line.rstrip(b"\r")
        if not _LINE.fullmatch(line) or (code and line[:3] != code):
            yield 0
            return
        code = line[:3]
        if line[3:4] != b"-":
            yield int(code)
            code = b""


class Tape:
    """All that is left to chance, drawn beforehand: at its end, everything goes well."""

    def __init__(self, octets: bytes) -> None:
        self._octets = iter(octets)

    def pick(self, *options: T) -> T:
        return options[next(self._octets, 0) % len(options)]


class Peer(asyncio.Transport):
    """The server and the network, seen from the client's transport."""

    def __init__(self, tape: Tape, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.pick = tape.pick
        self.loop = loop
        self.said = b""
        self.heard: list[tuple[bytes, int]] = []
        self.stuck = False
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol: Any = protocol

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self.closed:
            return
        self.heard.append((bytes(data), len(self.said)))
        commands = data.count(b"\r\n") if not data.endswith(b"\r\n.\r\n") else 0
        proper = [b"250 ok\r\n"] * commands or [b"250 ok\r\n"]
        if commands and data.endswith(b"DATA\r\n"):
            proper[-1] = b"354 go\r\n"
        mood = self.pick(*["proper"] * 8, "mixed", "any", "more", "close", "silence", "stuck")
        match mood:
            case "mixed":
                proper[self.pick(*range(len(proper)))] = self.pick(*REPLIES)
            case "any":
                proper = [self.pick(*REPLIES) for _ in range(self.pick(*range(6)))]
            case "more":
                proper.append(self.pick(*REPLIES))
            case "close" | "silence":
                proper = proper[: self.pick(*range(len(proper) + 1))]
            case "stuck":
                self.stuck = True
                self.protocol.pause_writing()
        said = b"".join(proper)
        when = 0.0
        for chunk in self._chunks(said):
            # Together with what is written next, at once, or after a while, also after the client's patience.
            when += self.pick(*[0.0] * 20, 1.0, 1000.0)
            self.loop.call_later(when, self._say, chunk)
        if mood == "stuck" and self.pick(True, False):
            self.loop.call_later(self.pick(0.0, 1.0), self._unstick)
        if mood == "close" or self.pick(*range(30)) == 29:
            self.loop.call_later(when + self.pick(0.0, 1.0), self._close)

    def _chunks(self, said: bytes) -> Iterator[bytes]:
        cuts = sorted(self.pick(*range(len(said) + 1)) for _ in range(self.pick(0, 0, 1, 2, 4)))
        for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
            if said[start:end]:
                yield said[start:end]

    def _say(self, chunk: bytes) -> None:
        if not self.closed:
            self.said += chunk
            self.protocol.data_received(chunk)

    def _unstick(self) -> None:
        if not self.closed:
            self.stuck = False
            self.protocol.resume_writing()

    def _close(self) -> None:
        if not self.closed:
            self.protocol.eof_received() if self.pick(True, False) else self.protocol.connection_lost(None)
            self.closed = True


class Story:
    """One connection, and some messages over it."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.pick = tape.pick

    async def run(self) -> None:
        self.peer = Peer(self.tape, asyncio.get_running_loop())
        names = ("pipelining", "size", "dsn", "smtputf8")
        connection = SmtpConnection(SERVER, self.peer, {name: "" for name in names if self.pick(True, False)})
        for _ in range(self.pick(1, 2, 3)):
            await self.one(connection)
            # What the server still has to say comes between two messages, or later.
            for _ in range(self.pick(0, 1, 5)):
                await asyncio.sleep(0)

    async def one(self, connection: SmtpConnection) -> None:
        self.begin = len(self.peer.heard)
        self.asked = 0
        task = asyncio.create_task(connection.send(Sending(SENDER, JANE, MESSAGE, self.permission, "key")))
        if self.pick(*range(6)) == 5:
            asyncio.get_running_loop().call_later(self.pick(0.0, 0.5, 1.5), task.cancel)
        try:
            outcome = await task
        except (asyncio.CancelledError, LookupError):
            assert not self.bodies(), "raised, and the body had been written"
            assert not connection.usable
            return
        event(f"{type(outcome).__name__}, {len(self.bodies())} bodies")
        self.judge(outcome)

    async def permission(self) -> bool:
        self.asked += 1
        mood = self.pick(*["yes"] * 6, "no", "raise", "late")
        if mood == "late":
            await asyncio.sleep(1.5)
        if mood == "raise":
            raise LookupError
        return mood != "no"

    def bodies(self) -> list[tuple[bytes, int]]:
        return [write for write in self.peer.heard[self.begin :] if write[0].startswith(b"Subject: x\r\n")]

    def judge(self, outcome: SendOutcome) -> None:
        bodies = self.bodies()
        assert len(bodies) <= self.asked <= 1
        if not bodies:
            assert isinstance(outcome, Refused | NotSent | NotPermitted)
            return
        ((data, said_before),) = bodies
        assert data == body(MESSAGE)
        # Each command had its own reply before the body, no less and no more, and the last of them was 354.
        (*_, first), *_ = commands = [write for write in self.peer.heard[self.begin :] if write not in bodies]
        before = list(read(self.peer.said[first:said_before]))
        assert len(before) == sum(line.count(b"\r\n") for line, _ in commands)
        assert [code // 100 for code in before[:-1]] == [2] * len(before[1:])
        assert before[-1] == 354
        after = list(read(self.peer.said[said_before:]))
        match outcome:
            case Accepted():
                assert after[0] // 100 == 2
                assert not self.peer.stuck
            case Refused():
                assert after[0] // 100 in (4, 5)
            case NotSent():
                assert self.peer.stuck
            case InDoubt():
                # Only where there was no reply, or none that says anything.
                assert not after or after[0] // 100 in (0, 3)
            case NotPermitted():
                pytest.fail("withheld, and the body had been written")


@BUDGET
@given(st.binary(min_size=100, max_size=100))
def test_what_is_told_is_true(octets: bytes) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(Story(Tape(octets)).run())
