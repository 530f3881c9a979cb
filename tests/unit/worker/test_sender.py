"""An internal error fails the event that it hits. The senders go on."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from listener.address import parse_address
from listener.config.rules import default_rules
from listener.config.sections import DeliverySettings
from listener.errors import DatabaseUnavailable
from listener.mail.composer import Message
from listener.mail.message import Content
from listener.notify.doorbell import Doorbell
from listener.outbox.event import Event, OutgoingMessage, Settlement, StoredMessage
from listener.recipients import RecipientPolicy
from listener.smtp.outcome import Accepted, NotPermitted
from listener.smtp.replies import Reply
from listener.smtp.sending import Sending
from listener.worker import sender as module
from listener.worker.decision import ToSend
from listener.worker.delivery import Delivery
from listener.worker.runtime import Runtime
from listener.worker.sender import _MAX_COMPOSED_BYTES, Senders

RULE = "dateplan_verified"
JANE = parse_address("jane@example.org")


def event(number: int, **more: Any) -> Event:
    return Event(number, RULE, str(number), 0, 0, datetime.now(UTC), 0.0, 40, more.pop("kept", False), None, **more)


@dataclass
class Everything:
    """Stands for all that carriers work with. `compose` and `send` may raise."""

    settled: list[Settlement] = field(default_factory=list)
    sending: int = 0
    most: int = 0
    size: int = 1
    ready_after: float = 0.0
    compose_error: Exception | None = None
    send_error: Exception | None = None
    stored_is: StoredMessage | Exception | None = None
    recipients: Any = field(default_factory=lambda: RecipientPolicy(None, None))
    is_open: bool = False

    def check(self, *_: Any) -> None: ...

    def compose(self, name: str, key: str, *_: Any) -> Message:
        if key == "2" and self.compose_error is not None:
            raise self.compose_error
        return Message("key", JANE, Content("", "", None), b"x" * self.size)

    async def send(self, sending: Sending) -> Accepted | NotPermitted:
        if self.ready_after:
            await asyncio.sleep(self.ready_after)
            if not sending.may_begin():
                return NotPermitted()
        assert await sending.permission()
        self.sending += len(sending.raw)
        self.most = max(self.most, self.sending)
        await asyncio.sleep(0.01)
        self.sending -= len(sending.raw)
        if self.send_error is not None and sending.message_id:
            raise self.send_error
        return Accepted(Reply(250, None, "ok"))

    def mark(self, message: OutgoingMessage) -> asyncio.Future[bool]:
        return self._done()

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        self.settled.append(settlement)
        return self._done()

    async def stored_message(self, event: Event) -> StoredMessage | None:
        if isinstance(self.stored_is, Exception):
            raise self.stored_is
        return self.stored_is

    def is_limited(self, max_rate: float | None) -> bool:
        return False

    def sent(self) -> None:
        pass

    def _done(self) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(True)
        return future


async def deliver(one: Any, events: list[Event], octets: int = 0) -> dict[int, Settlement]:
    delivery = Delivery(default_rules(), one, b"secret", {RULE: DeliverySettings(max_attempts=10)})
    runtime = Runtime(delivery, one, {RULE: JANE}, None)
    senders = Senders(one, one, one, one, Doorbell(), connections=10, poll=1.0)
    tasks: list[asyncio.Task[None]] = []
    senders.start(lambda work, name: tasks.append(asyncio.create_task(work, name=name)))
    senders.in_flight.add(events, lambda: True, 0.0)
    for each in events:
        senders.queue(runtime, ToSend(each, JANE, {}, octets), asyncio.get_running_loop().time(), None)
    assert senders.in_flight.queued_bytes == octets * len(events)
    assert await senders.in_flight.wait_until_empty(20)
    assert not any(task.done() for task in tasks)
    assert senders.in_flight.queued_bytes == senders.in_flight.composed_bytes == 0
    for task in tasks:
        task.cancel()
    return {settlement.event.id: settlement for settlement in one.settled}


ROW = "what stands in the row"


@pytest.mark.parametrize(
    "error", [ValueError(ROW), MemoryError(ROW), RecursionError(ROW), UnicodeEncodeError("x", ROW, 0, 1, ROW)]
)
async def test_while_a_message_is_written(error: Exception) -> None:
    with structlog.testing.capture_logs() as logs:
        settled = await deliver(Everything(compose_error=error), [event(n) for n in range(1, 5)], 1000)
    bad = settled.pop(2)
    assert (bad.state, bad.reason, bad.uses_attempt) == ("failed", "internal_error", True)
    assert {settlement.state for settlement in settled.values()} == {"sent"}
    [entry] = [entry for entry in logs if entry["event"] == "event_unforeseen"]
    assert (entry["event_id"], entry["error"]) == (2, type(error).__name__)
    assert "in compose" in entry["where"]
    assert ROW not in str(logs)
    assert ROW not in str(bad)


async def test_while_a_message_is_sent() -> None:
    """Nobody knows whether it got there, so it is not taken for unsent."""
    settled = await deliver(Everything(send_error=ValueError(ROW)), [event(n) for n in range(1, 5)])
    assert {(each.state, each.reason) for each in settled.values()} == {("in_doubt", "internal_error")}
    assert all(each.delay for each in settled.values())


@pytest.mark.parametrize(
    ("stored", "state", "reason"),
    [
        (StoredMessage("jane@example.org", b"kept"), "sent", None),
        (StoredMessage("b@example.org", b"kept"), "in_doubt", "moved"),
        (StoredMessage("nobody", b"kept"), "failed", "bad_address"),
        (DatabaseUnavailable("away"), "available", None),
        (None, "available", None),
    ],
    ids=["kept", "moved", "no address", "away", "taken up by another"],
)
async def test_a_second_sending(stored: StoredMessage | Exception | None, state: str, reason: str | None) -> None:
    settled = await deliver(Everything(stored_is=stored), [event(1, kept=True), event(2)])
    assert (settled[1].state, settled[1].reason) == (state, reason)
    assert settled[2].state == "sent"


async def test_a_lookup_that_is_old_when_the_server_is_ready_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark has written "consent given" by then, so the history says that the event was released."""
    monkeypatch.setattr(module, "_LOOKUP_VALID_S", 0.05)
    one = Everything(ready_after=0.1)
    settled = await deliver(one, [event(1)])
    assert (settled[1].state, settled[1].history_entry, settled[1].uses_attempt) == ("available", "released", False)
    assert one.most == 0


async def test_what_is_made_and_not_sent_is_bounded() -> None:
    one = Everything(size=1_000_000)
    settled = await deliver(one, [event(n) for n in range(60)])
    assert {settlement.state for settlement in settled.values()} == {"sent"}
    assert 1_000_000 < one.most <= _MAX_COMPOSED_BYTES + 1_000_000


async def test_a_judgement_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery(default_rules(), Everything(), b"secret", {RULE: DeliverySettings(max_attempts=10)})  # type: ignore[arg-type]
    lookup = delivery._lookups[RULE]

    async def rows(*_: Any) -> Any:
        from listener.worker.lookup_result import LookupResult

        row = {"current": "VE", "email": "a@example.org", "consent": True, "place": "x"}
        return LookupResult({"1": [row], "2": [{**row, "email": Unprintable()}], "3": [row]})

    monkeypatch.setattr(lookup, "rows", rows)
    decided = await delivery.triage(RULE, [event(n) for n in (1, 2, 3)], None)  # type: ignore[arg-type]
    assert [type(each).__name__ for each in decided] == ["ToSend", "Settlement", "ToSend"]
    assert isinstance(decided[1], Settlement)
    assert decided[1].reason == "internal_error"


class Unprintable:
    def __str__(self) -> str:
        raise ValueError(ROW)
