"""A worker's claims, marks and outcomes, and its fence."""

from collections.abc import AsyncIterator

import pytest
import structlog

from listener.address import parse_address
from listener.db.pools import opened, outbox_pool
from listener.outbox.event import Event, OutgoingMessage, Settlement
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.outbox.turns import Turn
from listener.worker.registry import WorkerRegistry
from tests.support.database import Database

RULE = "dateplan_verified"
JANE = parse_address("jane@example.org")


@pytest.fixture
async def outbox(database: Database) -> AsyncIterator[Outbox]:
    async with opened(pool := outbox_pool(database.url)):
        registration = Registration(lease_s=10)
        await WorkerRegistry(pool, registration, list).register()
        yield Outbox(pool, registration, lambda rule: False)


def capture(database: Database, *keys: str) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, unnest(%s::text[])", (RULE, list(keys)))


def state(database: Database) -> str:
    found: str = database.value("SELECT state FROM pgherald.outbox")
    return found


def mark(event: Event) -> OutgoingMessage:
    return OutgoingMessage(event, JANE, b"bytes", "id")


async def test_an_event_goes_from_claim_to_settlement(database: Database, outbox: Outbox) -> None:
    capture(database, "7")
    [event] = await outbox.claim(10, [Turn(RULE)])
    assert (event.key, event.attempt, event.has_stored_message, event.flaw) == ("7", 0, False, None)
    assert outbox.is_leased(outbox.worker)
    assert await outbox.claim(10, [Turn(RULE)]) == []
    assert await outbox.record([], [mark(event)]) == {event.fence}
    stored = await outbox.stored_message(event)
    assert stored is not None
    assert (stored.recipient, stored.message) == (str(JANE), b"bytes")
    sent = Settlement(event, "sent", "sent", detail="250 Ok", uses_attempt=True)
    assert await outbox.record([sent], []) == {event.fence}
    assert database.execute("SELECT state, attempt, message, recipient FROM pgherald.outbox") == [
        ("sent", 1, None, None)
    ]
    # A second try, after an answer that was lost, finds what the first has written.
    assert await outbox.record([sent], []) == set()
    assert await outbox.record([sent], [], again=True) == {event.fence}


async def test_an_older_claim_changes_nothing(database: Database, outbox: Outbox) -> None:
    capture(database, "7")
    [old] = await outbox.claim(10, [Turn(RULE)])
    assert await outbox.release_lost_claims([]) == 1
    [new] = await outbox.claim(10, [Turn(RULE)])
    assert new.claim != old.claim
    assert await outbox.record([Settlement(old, "skipped", "skipped", "expired")], [mark(old)]) == set()
    assert await outbox.stored_message(old) is None
    assert state(database) == "claimed"
    assert await outbox.release_lost_claims([new.fence]) == 0


async def test_what_waits_is_counted_and_a_paused_rule_apart(database: Database, outbox: Outbox) -> None:
    capture(database, "1", "2")
    assert await outbox.waiting([RULE]) == (2, 0, 0)
    database.execute("UPDATE pgherald.rule SET paused_at = now()")
    assert await outbox.waiting([RULE]) == (0, 0, 2)
    assert await outbox.claim(10, [Turn(RULE)]) == []


async def test_a_detail_that_cannot_be_written_does_not_hold_back_the_outcome(
    database: Database, outbox: Outbox
) -> None:
    capture(database, "7")
    [event] = await outbox.claim(10, [Turn(RULE)])
    # Not a history entry: the state is one that the outbox refuses without a reason.
    refused = Settlement(event, "failed", "failed", None, "too late")
    with structlog.testing.capture_logs() as logs:
        assert await outbox.record([refused], []) == set()
    assert [entry["event"] for entry in logs] == ["event_detail_lost", "event_not_written"]
    assert state(database) == "claimed"
