"""The SMTP server of the run: it fails at every phase, and keeps of each message the part that the judge needs."""

import asyncio
import hashlib
import random
import re
import socket
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.smtpd import Action, Smtpd, answer, close, drop, swallow

# Longer than the daemons wait for the reply to a dot, so that it comes too late.
DOT_TIMEOUT = 3.0
_LATE = DOT_TIMEOUT + 1.0
# Below the ports that systems hand out, so that nobody takes ours while it is down.
_PORTS = range(20000, 32000)
_KEY = re.compile(rb"^X-Pgherald-Key: (\S+)\r$", re.MULTILINE)
REFUSED = "x"


def _stall(released: asyncio.Event) -> Action:
    return Action(gate=released, silent=True, then="reset")


# The troubles by name: the phase, and the server's action there.
TROUBLES: dict[str, tuple[str, Callable[[asyncio.Event], Action]]] = {
    "connect: drop": ("connect", lambda _: drop()),
    "connect: stall": ("connect", _stall),
    "greeting: 421": ("greeting", lambda _: answer("421 4.3.2 going down", then="close")),
    "greeting: 554": ("greeting", lambda _: answer("554 5.3.2 no service here", then="close")),
    "ehlo: drop": ("ehlo", lambda _: drop()),
    "mail: 421": ("mail", lambda _: answer("421 4.3.2 going down", then="close")),
    "mail: 451": ("mail", lambda _: answer("451 4.3.0 out of order")),
    "mail: stall": ("mail", _stall),
    "rcpt: 450": ("rcpt", lambda _: answer("450 4.2.1 try again")),
    "rcpt: drop": ("rcpt", lambda _: drop()),
    "data: 451": ("data", lambda _: answer("451 4.3.0 out of order")),
    "data: stall": ("data", _stall),
    "data: 354, drop": ("data", lambda _: answer("354 go ahead", then="reset")),
    "body: drop": ("body", lambda _: drop()),
    "dot: 451": ("dot", lambda _: answer("451 4.3.0 out of order")),
    "dot: 421": ("dot", lambda _: answer("421 4.3.2 going down", then="close")),
    "dot: drop": ("dot", lambda _: drop()),
    "dot: swallow": ("dot", lambda _: swallow()),
    "dot: stall": ("dot", _stall),
    "dot: late": ("dot", lambda _: Action(delay=_LATE)),
    "idle: close": ("idle", lambda _: close()),
}


@dataclass(frozen=True, slots=True)
class Copy:
    """An accepted message. `at`: seconds since the epoch, before the server said so."""

    recipient: str
    digest: bytes
    at: float


class Catcher(Smtpd):
    """`dot`: how long the reply to a dot takes at least and at most. Recipients that begin with REFUSED are unknown here."""

    def __init__(self, chance: random.Random, dot: tuple[float, float]) -> None:
        # A body that comes in pieces can be cut in its midst.
        super().__init__(port=_free_port(chance), receive_buffer=2048)
        self.arrivals: list[float] = []
        self.recipients: dict[str, float] = {}
        self._chance = chance
        self._dot = dot
        self._copies: defaultdict[str, list[Copy]] = defaultdict(list)
        self._outage: tuple[str, Action, float] | None = None
        self._released = asyncio.Event()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def copies(self) -> dict[str, list[Copy]]:
        """Return the accepted messages by the key of their event."""
        self._keep()
        return self._copies

    def outage(self, name: str, share: float) -> None:
        """From now on, do so to this share of what reaches the phase."""
        phase, make = TROUBLES[name]
        self._released = asyncio.Event()
        self._outage = phase, make(self._released), share

    def calm(self) -> None:
        self._outage = None
        self._released.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        def kept() -> bool:
            self._keep()
            return condition()

        await super().until(kept, timeout)

    def rule(self, phase: str, message: int, recipient: str | None, body: int = 0) -> Action | None:
        self._keep()
        if phase == "rcpt" and recipient is not None and recipient.startswith(REFUSED):
            return answer("550 5.1.1 no such user")
        if self._outage is not None:
            where, action, share = self._outage
            # A body is asked about at each of its pieces; one half is enough.
            if phase == where and self._chance.random() < share and (phase != "body" or body > 1024):
                return action
        return Action(delay=self._chance.uniform(*self._dot)) if phase == "dot" else None

    def _keep(self) -> None:
        """Only what is needed, or the messages of a night would not fit into memory."""
        messages, self.messages = self.messages, []
        for message in messages:
            found = _KEY.search(message.raw)
            key = found[1].decode() if found else ""
            self._copies[key].append(Copy(message.recipient, hashlib.sha256(message.raw).digest(), message.at))
            self.arrivals.append(message.at)
            self.recipients[message.recipient] = message.at
        self.lines.clear()
        self.pipelined.clear()
        self.early.clear()
        self.cut.clear()


def _free_port(chance: random.Random) -> int:
    for port in chance.sample(_PORTS, 100):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
