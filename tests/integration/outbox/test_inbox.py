"""A worker's claims read the inbox from where they left off, and no rule's changes keep another's waiting."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from listener.db.pool import Pool
from listener.db.pools import opened, outbox_pool
from listener.outbox.event import Event
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.outbox.turns import Turn
from listener.worker.registry import WorkerRegistry
from tests.support.claimant import RULE
from tests.support.database import Database
from tests.support.inbox import MANY, add_changes, changes, events_of, file_size
from tests.support.pgbouncer import PgBouncer

ONE, TWO = [Turn(RULE)], [Turn(RULE), Turn("quiet")]
BLOCKS = """SELECT pg_stat_get_blocks_fetched('pgherald.inbox'::regclass)"""


class Worker:
    """The outbox as one worker uses it, and what its claims cost."""

    def __init__(self, database: Database, pool: Pool, outbox: Outbox) -> None:
        self.outbox = outbox
        self._database = database
        self._pool = pool

    async def claim(self, limit: int, turns: list[Turn] = ONE, window: float | None = None) -> list[Event]:
        return await self.outbox.claim(limit, turns, window)

    async def blocks(self, limit: int, turns: list[Turn] = ONE) -> int:
        """Claim as many as the limit, if there are so many. Return how many blocks of the inbox that has read."""
        await self._flush()
        before = self._database.value(BLOCKS)
        await self.claim(limit, turns)
        await self._flush()
        return int(self._database.value(BLOCKS) - before)

    async def _flush(self) -> None:
        async with self._pool.connection() as conn:
            await conn.execute("SELECT pg_stat_force_next_flush()")


@asynccontextmanager
async def registered(database: Database, url: str | None = None) -> AsyncIterator[Worker]:
    async with opened(pool := outbox_pool(url or database.url)):
        registration = Registration(lease_s=60)
        await WorkerRegistry(pool, registration, list).register()
        yield Worker(database, pool, Outbox(pool, registration, lambda rule: False))


@pytest.fixture
async def worker(database: Database) -> AsyncIterator[Worker]:
    database.execute("ALTER TABLE pgherald.inbox SET (autovacuum_enabled = off)")
    async with registered(database) as worker:
        yield worker


@pytest.fixture
def old_snapshot(database: Database) -> Iterator[Callable[[], None]]:
    """Open a transaction that keeps each row version, until it is called."""
    reader = database.connect()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT count(*) FROM public.dateplan")
    yield lambda: reader.rollback()
    reader.rollback()


@pytest.mark.parametrize("snapshot", ["none", "old"])
@pytest.mark.parametrize("turns", [ONE, TWO], ids=["one rule", "two rules"])
async def test_the_last_claim_of_a_backlog_reads_no_more_than_the_first(
    database: Database, worker: Worker, request: pytest.FixtureRequest, snapshot: str, turns: list[Turn]
) -> None:
    if snapshot == "old":
        request.getfixturevalue("old_snapshot")
    add_changes(database, MANY)
    pages = file_size(database) // 8192
    # Of several rules a claim takes 2,000 over, of one no more than it claims. Each row costs a few blocks.
    first = await worker.blocks(20, turns)
    while changes(database) > 3000:
        await worker.claim(500, turns)
        if turns is TWO:
            await worker.outbox.inbox.take_over()
    last = await worker.blocks(20, turns)
    print(f"{first} blocks, then {last}, of a file of {pages}")
    assert last <= first + pages // 10


async def test_beside_an_old_snapshot_an_empty_inbox_costs_few_blocks(
    database: Database, worker: Worker, old_snapshot: Callable[[], None]
) -> None:
    """Every dead version would stay until the snapshot is gone. The truncation removes them."""
    add_changes(database, MANY)
    while await worker.claim(500):
        pass
    pages = file_size(database) // 8192
    assert changes(database) == 0
    assert await worker.blocks(20) >= pages
    await worker.outbox.inbox.shrink()
    assert await worker.blocks(20) <= 3
    add_changes(database, 1, first=MANY + 1)
    [event] = await worker.claim(20)
    assert event.key == str(MANY + 1)


async def test_no_claim_returns_empty_before_it_has_read_from_the_start(database: Database, worker: Worker) -> None:
    """Another worker takes what is left of a backlog. The next change stands before the position of this one."""
    add_changes(database, MANY)
    assert len(await worker.claim(500)) == 500
    database.execute("DELETE FROM pgherald.inbox")
    database.execute("VACUUM pgherald.inbox")
    add_changes(database, 1, first=MANY + 1)
    [event] = await worker.claim(20)
    assert event.key == str(MANY + 1)


async def test_a_change_in_a_page_that_was_read_before_is_found(database: Database, worker: Worker) -> None:
    """Vacuum gives the pages back to writers, who fill them from the start."""
    add_changes(database, MANY)
    while await worker.claim(500):
        pass
    database.execute("VACUUM pgherald.inbox")
    add_changes(database, 1, first=MANY + 1)
    assert database.value("SELECT ctid < '(100,0)'::tid FROM pgherald.inbox")
    [event] = await worker.claim(20)
    assert event.key == str(MANY + 1)


async def test_a_change_before_the_position_is_found_in_the_end(database: Database, worker: Worker) -> None:
    """A transaction that was open when the claims came by commits behind them."""
    late = database.connect()
    with late.transaction():
        late.execute("INSERT INTO pgherald.inbox VALUES (%s, 'late', now(), pg_current_xact_id())", (RULE,))
        add_changes(database, 1000)
        assert len(await worker.claim(500)) == 500
    found = [event.key for _ in range(3) for event in await worker.claim(400)]
    assert sorted(found).count("late") == 1
    assert len(found) == 501


async def test_after_another_worker_has_truncated_it_changes_are_found(database: Database, worker: Worker) -> None:
    add_changes(database, MANY)
    while await worker.claim(500):
        pass
    database.execute("SELECT pgherald.shrink_inbox()")
    assert file_size(database) == 0
    add_changes(database, 1, first=MANY + 1)
    [event] = await worker.claim(20)
    assert event.key == str(MANY + 1)


async def test_a_claim_of_recent_events_finds_a_change_in_any_page(database: Database, worker: Worker) -> None:
    """Each session of the application fills a page of its own, so a later change may stand before an earlier one."""
    first, second = database.connect(), database.connect()
    for number in range(1, 2001):
        add = "INSERT INTO pgherald.inbox VALUES (%s, %s, now(), pg_current_xact_id())"
        (first if number % 2 else second).execute(add, (RULE, str(number)))
    while await worker.claim(500, window=10.0):
        pass
    for session, key in ((first, "by one"), (second, "by the other")):
        session.execute("INSERT INTO pgherald.inbox VALUES (%s, %s, now(), pg_current_xact_id())", (RULE, key))
        [event] = await worker.claim(20, window=10.0)
        assert event.key == key


async def test_a_quiet_rules_change_behind_many_of_another_is_claimed_soon(database: Database, worker: Worker) -> None:
    """A claim takes 2,000 over, and then knows of the quiet rule. The busy one does not have to be claimed before."""
    add_changes(database, 5000)
    add_changes(database, 1, "quiet")
    claimed: list[str] = []
    claims = 0
    while "quiet" not in claimed:
        claimed += [event.rule for event in await worker.claim(50, TWO)]
        claims += 1
    assert claims <= 4
    assert len(claimed) <= 200


async def test_it_is_taken_over_without_a_claim_too(database: Database, worker: Worker) -> None:
    add_changes(database, 5000)
    add_changes(database, 1, "quiet")
    inbox = worker.outbox.inbox
    assert not inbox.has_hidden_rules
    await worker.claim(50, TWO)
    while inbox.has_hidden_rules:
        await inbox.take_over()
    assert changes(database) == 0
    assert "quiet" in [event.rule for event in await worker.claim(50, TWO)]


@pytest.mark.parametrize("limit", [1, 50])
async def test_changes_that_may_not_be_sent_are_no_obstacle(database: Database, worker: Worker, limit: int) -> None:
    """Those of a paused, a suspended and an unknown rule become available, and the claim goes on behind them."""
    database.execute("INSERT INTO pgherald.rule (rule, \"table\", table_name, key, paused_at) VALUES ('paused', 'public.plan', 'public.plan', '{id}', now())")  # fmt: skip
    for rule in ("paused", "suspended", "unknown"):
        add_changes(database, 1000, rule)
    add_changes(database, 1)
    [event] = await worker.claim(limit, [Turn(RULE), Turn("paused")])
    assert (event.rule, event.key) == (RULE, "1")
    conn = database.connect()
    assert [state for _, state in events_of(conn)] == ["available"] * 3000 + ["claimed"]
    assert changes(database) == 0


async def test_the_worker_of_a_single_rule_takes_anothers_over_in_large_batches(
    database: Database, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of one, each of them would otherwise cost a statement."""
    add_changes(database, 5000, "unknown")
    add_changes(database, 1)
    statements = 0
    execute = psycopg.AsyncRawCursor.execute

    async def count(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal statements
        statements += 1
        return await execute(self, *args, **options)

    monkeypatch.setattr(psycopg.AsyncRawCursor, "execute", count)
    [event] = await worker.claim(1)
    assert event.rule == RULE
    assert statements <= 5


async def test_a_change_whose_claim_cannot_be_read_is_claimed_once(database: Database, worker: Worker) -> None:
    """The statement fails for all, and everything is taken over first. Then each is claimed on its own."""
    add_changes(database, 3)
    database.execute("INSERT INTO pgherald.inbox VALUES (%s, repeat('x', 20000), now(), pg_current_xact_id())", (RULE,))
    events = await worker.claim(10)
    assert sorted((event.flaw is None for event in events), reverse=True) == [True, True, True, False]
    assert changes(database) == 0
    assert await worker.claim(10) == []


@pytest.mark.slow
async def test_behind_a_pooler_a_claim_brings_its_path_along(database: Database) -> None:
    """As every statement of the daemon does. Another role's function would run with the daemon's rights."""
    database.execute(
        """CREATE FUNCTION public.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE plpgsql
           AS $$ BEGIN RAISE 'trapped'; END $$"""
    )
    name = database.value("SELECT current_database()")
    database.connect().execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    database.connect().execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    add_changes(database, 1)
    with PgBouncer(database.url) as bouncer:
        async with registered(database, bouncer.url) as worker:
            [event] = await worker.claim(10)
    assert event.key == "1"
