"""How much a worker claims."""

from types import SimpleNamespace
from typing import Any

import pytest

from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import Slots
from listener.worker.lookup import ToSend
from listener.worker.loop import Worker
from listener.worker.row_budget import MAX_BATCH_BYTES
from tests.unit.worker.test_sender import JANE, event


class FakeSenders:
    """Nothing in hand; as many octets as a test says, until somebody waits for them."""

    def __init__(self, octets: int) -> None:
        self.queued_bytes = octets
        self.in_flight: set[tuple[int, int]] = set()
        self.capacity = 500
        self.waited = 0
        self.given_back: list[Settlement] = []

    async def wait_for_slot(self, seconds: float) -> None:
        self.waited += 1
        self.queued_bytes -= MAX_BATCH_BYTES // 4

    def queue(self, *_: Any) -> None: ...

    def settle(self, settlement: Settlement) -> None:
        self.given_back.append(settlement)


def worker(senders: FakeSenders) -> Worker:
    async def nothing() -> None: ...

    listener: Any = SimpleNamespace(open_gate=nothing, peers=0)
    breaker: Any = SimpleNamespace(is_probing=False, is_open=False)
    anything: Any = None
    return Worker(anything, anything, listener, anything, senders, breaker, anything, poll=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("octets", "waits"), [(0, 0), (MAX_BATCH_BYTES // 2, 0), (MAX_BATCH_BYTES // 2 + 1, 1), (2 * MAX_BATCH_BYTES, 6)]
)
async def test_no_more_is_claimed_while_much_waits(octets: int, waits: int) -> None:
    senders = FakeSenders(octets)
    assert await worker(senders)._wait_for_capacity() == 500
    assert senders.waited == waits


class Delivery:
    """Every row has so many octets."""

    def __init__(self, octets: int) -> None:
        self.octets = octets
        self.budgets: list[int] = []

    async def triage(self, rule: str, events: list[Event], pool: Any, budget: int) -> list[ToSend | Settlement]:
        self.budgets.append(budget)
        fit = min(len(events), max(0, -(-budget // self.octets)))
        to_send: list[ToSend | Settlement] = [ToSend(each, JANE, {}, self.octets) for each in events[:fit]]
        return to_send + [Settlement(each, "available") for each in events[fit:]]


async def test_the_rules_of_a_claim_share_what_may_be_read() -> None:
    senders, delivery = FakeSenders(0), Delivery(MAX_BATCH_BYTES // 4)
    one = worker(senders)
    events = [event(number) for number in range(8)]
    rules = [
        Event(each.id, f"rule{each.id % 4}", each.key, *(0, 0, each.captured_at, 0.0, 1, False, None))
        for each in events
    ]
    assert await one._decide_and_queue(delivery, rules, Slots(8)) == 4  # type: ignore[arg-type]
    assert delivery.budgets == [MAX_BATCH_BYTES, MAX_BATCH_BYTES // 2, 0, 0]
    assert len(senders.given_back) == 4
    # The next claim takes as many as such rows fit.
    assert await one._wait_for_capacity() == 4
    small = Delivery(100)
    await one._decide_and_queue(small, events, Slots(8))  # type: ignore[arg-type]
    assert await one._wait_for_capacity() == 500
