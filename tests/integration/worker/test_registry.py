"""A worker's row, its lease, and what another worker makes of a dead one's events."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from listener.admin.events import retry_mail_server
from listener.admin.status import read_suspended
from listener.db.pools import opened, outbox_pool
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.outbox.turns import Turn
from listener.worker.registry import WorkerRegistry
from listener.worker.suspensions import Suspension
from tests.support.database import Database

RULE = "dateplan_verified"
New = Callable[[], WorkerRegistry]


@pytest.fixture
async def new(database: Database) -> AsyncIterator[New]:
    async with AsyncExitStack() as stack:
        pool = outbox_pool(database.url)
        await stack.enter_async_context(opened(pool))
        yield lambda: WorkerRegistry(pool, Registration(lease_s=10), list)


async def renew(registry: WorkerRegistry, breaker_reason: str | None = None, **suspended: Suspension) -> bool:
    return await registry.renew(
        has_presence_lock=False,
        listening=True,
        leader=False,
        pid=None,
        breaker_reason=breaker_reason,
        suspended=suspended,
    )


async def test_a_registration_is_renewed_until_it_is_deleted(database: Database, new: New) -> None:
    registry = new()
    await registry.register()
    registration = registry.registration
    assert registration.is_leased(registration.worker)
    assert await renew(registry, "421 busy")
    assert database.execute("SELECT id, name, listening, breaker_reason FROM pgherald.worker") == [
        (registration.worker, registration.name, True, "421 busy")
    ]
    lock = registration.presence_lock
    assert await registry.renumber() == registration.presence_lock != lock
    await registry.unregister()
    assert not await renew(registry)
    # Nobody's row is left to number: it keeps the lock that it had.
    assert await registry.renumber() == registration.presence_lock


async def test_the_first_suspension_of_a_rule_counts_while_its_daemon_is_alive(database: Database, new: New) -> None:
    now = datetime.now(UTC)
    early, late = Suspension(now - timedelta(minutes=5), "no column"), Suspension(now, "no table")
    one, other = new(), new()
    await one.register()
    await other.register()
    await renew(one, None, paid=early, due=late)
    await renew(other, None, paid=late)
    with database.connect() as conn:
        assert read_suspended(conn) == {"paid": (early.since, "no column"), "due": (late.since, "no table")}
        database.execute(
            "UPDATE pgherald.worker SET seen_at = now() - 2 * lease WHERE id = %s", (one.registration.worker,)
        )
        assert read_suspended(conn) == {"paid": (late.since, "no table")}
        await renew(other)
        assert read_suspended(conn) == {}


async def test_an_operator_asks_for_a_try_once(database: Database, new: New) -> None:
    waiting, other = new(), new()
    for registry, reason in ((waiting, "535 no"), (other, None)):
        await registry.register()
        await renew(registry, reason)
    with database.connect() as conn:
        assert retry_mail_server(conn) == 1
    assert not await other.take_retry_request()
    await renew(waiting, "535 no")
    assert await waiting.take_retry_request()
    assert not await waiting.take_retry_request()
    with database.connect() as conn:
        retry_mail_server(conn)
    # The server came back by itself. Its next failure must not find an old request.
    await renew(waiting, None)
    await renew(waiting, "535 no")
    assert not await waiting.take_retry_request()


async def test_the_events_of_a_dead_worker_are_rescued(database: Database, new: New) -> None:
    dead, alive = new(), new()
    await dead.register()
    await alive.register()
    outbox = Outbox(dead._pool, dead.registration, lambda rule: False)
    database.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, '1')", (RULE,))
    [event] = await outbox.claim(10, [Turn(RULE)])
    [peer] = await alive.peers()
    assert (peer.id, peer.lease, peer.gone) == (dead.registration.worker, 10.0, False)
    rescue = await alive.rescue([peer])
    assert (rescue.names, rescue.freed, rescue.doubted, rescue.due) == ([dead.registration.name], 1, 0, 0)
    assert await alive.peers() == []
    assert not await renew(dead)
    assert database.value("SELECT state FROM pgherald.outbox") == "available"
    assert await outbox.release_lost_claims([event.fence]) == 0


async def test_a_worker_that_has_renewed_since_is_left_alone(database: Database, new: New) -> None:
    slow, other = new(), new()
    await slow.register()
    await other.register()
    peers = await other.peers()
    assert await renew(slow)
    assert (await other.rescue(peers)).names is None
    assert await renew(slow)


async def test_no_foreign_session_holds_a_lock(new: New) -> None:
    assert await new().foreign_locks() == []
