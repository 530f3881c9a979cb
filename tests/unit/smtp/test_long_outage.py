"""Six hours in which the server refuses every message, on a clock that jumps: no event fails, and all are sent after it."""

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from listener.address import parse_address
from listener.outbox.event import Event
from listener.smtp.breaker import Breaker
from listener.smtp.connection import SmtpConnection
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Phase, Reply
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from listener.smtp.verdicts import classify
from listener.worker.retry_policy import RetryPolicy
from tests.support.client import yes
from tests.support.clock import jumping, now

EVENTS = 20
OUTAGE_S = 6 * 3600.0
SENDER = parse_address("no-reply@example.org")


class Server:
    """Refuses every message with the reply until the outage is over."""

    def __init__(self, phase: Phase, reply: str) -> None:
        self.tries = 0
        self._phase = phase
        self._reply = Reply.parse([reply.encode()])

    def answer(self) -> SendOutcome:
        self.tries += 1
        if now() > OUTAGE_S:
            return Accepted(Reply(250, None, "ok"))
        return Refused(self._phase, self._reply, classify(self._phase, self._reply, reused=False))


class Connection:
    """Stands for a connection to the server: each message takes 10 ms."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.usable = True
        self.used = self.refused = 0
        self.opened_at = self.idle_since = now()

    async def send(self, _: Sending) -> SendOutcome:
        await asyncio.sleep(0.01)
        self.used += 1
        return self._server.answer()

    async def close(self) -> None:
        self.usable = False

    def abort(self) -> None:
        self.usable = False


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("dot", "451 4.7.1 Service unavailable - try again later"),
        ("rcpt", "451 4.3.0 Error: queue file write error"),
        ("rcpt", "450 4.7.1 policy server is down"),
        ("rcpt", "554 5.7.1 nobody knows this text"),
    ],
)
@jumping
async def test_six_hours(monkeypatch: pytest.MonkeyPatch, phase: str, reply: str) -> None:
    server = Server(Phase(phase), reply)

    async def open_connection(*_: object) -> Any:
        return Connection(server)

    monkeypatch.setattr(SmtpConnection, "open", open_connection)
    breaker = Breaker()
    pool = SmtpPool(SmtpServer("localhost", 25, "off"), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), 8, breaker)
    policy = RetryPolicy()
    sent: dict[int, float] = {}
    attempts: dict[int, int] = {}
    states: set[str] = set()
    probe = asyncio.Lock()

    async def deliver(event: Event) -> None:
        """Do for one event what the worker does: wait for the breaker, send, and wait for the next try."""
        while event.id not in sent:
            async with probe:
                await breaker.wait()
            outcome = await pool.send(
                Sending(SENDER, parse_address(f"user{event.id}@example.org"), b"", yes, f"id{event.id}")
            )
            if isinstance(outcome, Accepted):
                sent[event.id] = now()
            elif isinstance(outcome, Refused | NotSent):
                settlement = policy.refused(event, "", outcome.verdict)
                states.add(settlement.state)
                attempts[event.id] = event.attempt + settlement.uses_attempt
                event = replace(event, attempt=attempts[event.id])
                await asyncio.sleep(settlement.delay or 0.0)
            else:
                assert isinstance(outcome, NotPermitted)

    captured = datetime.now(UTC)
    async with asyncio.TaskGroup() as group:
        for number in range(EVENTS):
            group.create_task(deliver(Event(number, "rule", str(number), 0, 0, captured, 0.0, 1, False, None)))
    assert states == {"available"}
    assert len(sent) == EVENTS
    # The longest wait is that of a mailbox.
    assert max(sent.values()) < OUTAGE_S + 3600
    print(f"{server.tries} tries in six hours; the last was sent {max(sent.values()) - OUTAGE_S:.0f} s after them")
    assert server.tries < OUTAGE_S / 5
