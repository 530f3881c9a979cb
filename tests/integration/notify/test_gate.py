"""The gate: nobody is rung who is awake, and nothing committed waits for a sleeper."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from listener.config.rules import default_rules
from listener.db.pools import opened, outbox_pool
from listener.notify.listener import Listener
from listener.outbox.batch_writer import BatchWriter
from listener.outbox.event import Event, Settlement
from listener.outbox.rate_limit import RateLimiter
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.smtp.breaker import Breaker
from listener.worker import scan_pace
from listener.worker.claimer import Claimer
from listener.worker.decider import Decider
from listener.worker.loop import Worker
from listener.worker.registry import WorkerRegistry
from listener.worker.runtime import Runtime
from listener.worker.sender import Senders
from listener.worker.suspensions import Suspensions
from tests.support import PATIENCE
from tests.support.database import Database

LATE = 0.1
POLL = 60.0


class Taken:
    """Stands for a delivery: every event is decided at once, and the moment noted."""

    def __init__(self) -> None:
        self.rules = default_rules()
        self.active_shares = {rule: each.share for rule, each in self.rules.items()}
        self.policies = {rule: SimpleNamespace(again_after=None) for rule in self.rules}
        self.suspensions = Suspensions()
        self.at: dict[int, float] = {}

    def message_id(self, event: Event) -> str:
        return str(event.id)

    async def triage(self, rule: str, events: Iterable[Event], pool: Any, budget: int) -> list[Settlement]:
        events = list(events)
        self.at.update((int(event.key), time.monotonic()) for event in events)
        return [Settlement(event, "skipped", "skipped", "no_consent") for event in events]


class Sleeper(Worker):
    """The real loop, with its sleeps noted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sleeps: list[tuple[float, float]] = []
        self.asleep = asyncio.Event()

    async def _sleep(self) -> None:
        begun = time.monotonic()
        self.asleep.set()
        await super()._sleep()
        self.asleep.clear()
        self.sleeps.append((begun, time.monotonic()))


class WithoutSecondDrain(Sleeper):
    """A mutant: the drain that follows a gate just closed finds nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._just_closed = False
        self._close = self._listener.gate.close
        self._listener.gate.close = self._close_and_note  # type: ignore[method-assign]

    async def _close_and_note(self) -> bool:
        self._just_closed = await self._close()
        return self._just_closed

    async def _drain(self, *, thorough: bool) -> int:
        if self._just_closed:
            self._just_closed = False
            return 0
        return await super()._drain(thorough=thorough)


@asynccontextmanager
async def at_work(database: Database, kind: type[Sleeper] = Sleeper) -> AsyncIterator[tuple[Sleeper, Listener, Taken]]:
    pool = outbox_pool(database.url)
    async with opened(pool):
        registration = Registration(lease_s=10)
        outbox = Outbox(pool, registration, lambda rule: False)
        await WorkerRegistry(pool, registration, list).register()
        listener = Listener(database.url, outbox.ring)
        batch_writer = BatchWriter(outbox)
        taken = Taken()
        breaker, rate_limiter = Breaker(), RateLimiter(pool)
        senders = Senders(outbox, batch_writer, breaker, rate_limiter, listener.doorbell, connections=8, poll=POLL)
        decider = Decider(outbox, pool, senders, rate_limiter, listener.doorbell)
        claimer = Claimer(outbox, senders.in_flight, decider)
        runtime = Runtime(taken, None, None, None)  # type: ignore[arg-type]
        worker = kind(claimer, senders, listener, breaker, rate_limiter, runtime=runtime, poll=POLL)
        tasks = [asyncio.create_task(listener.keep()), asyncio.create_task(batch_writer.run())]
        await listener.ready.wait()
        tasks.append(asyncio.create_task(worker.run()))
        try:
            yield worker, listener, taken
        finally:
            await worker.stop(5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Any, limit: float = PATIENCE) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


class Writers:
    """Applications: commits and rollbacks, savepoints kept and lost, transactions that linger before their end."""

    def __init__(self, database: Database, keys: range, threads: int, gap: float, hold: float, seed: int) -> None:
        self.committed: dict[int, float] = {}
        self._keys = iter(keys)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._write, args=(database.url, random.Random(seed + i), gap, hold))
            for i in range(threads)
        ]

    def _write(self, url: str, chance: random.Random, gap: float, hold: float) -> None:
        update = "UPDATE dateplan SET status = 'VE' WHERE id = %s"
        with psycopg.connect(url) as conn:
            while True:
                with self._lock:
                    key = next(self._keys, None)
                if key is None:
                    return
                dice = chance.random()
                if dice < 0.15:
                    with suppress(psycopg.Rollback), conn.transaction():
                        conn.execute(update, (key,))
                        time.sleep(chance.uniform(0, hold))
                        raise psycopg.Rollback
                else:
                    with conn.transaction():
                        if dice < 0.3:
                            with conn.transaction(force_rollback=True):
                                conn.execute(update, (key,))
                        conn.execute(update, (key,))
                        time.sleep(chance.uniform(0, hold))
                    self.committed[key] = time.monotonic()
                time.sleep(chance.uniform(0, 2 * gap))

    async def finish(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


def slept_through(worker: Sleeper, taken: dict[int, float], committed: dict[int, float]) -> list[int]:
    """Events that lay there, committed and not taken, while the worker slept for longer than the limit."""
    return [
        key
        for key, at in committed.items()
        if any(min(end, taken[key]) - max(begun, at) > LATE for begun, end in worker.sleeps)
    ]


async def write_while_at_work(
    database: Database, kind: type[Sleeper], *, events: int, threads: int, gap: float, hold: float, seed: int = 1
) -> tuple[Sleeper, Taken, Writers]:
    with database.connect() as conn:
        conn.execute("INSERT INTO dateplan (id) OVERRIDING SYSTEM VALUE SELECT generate_series(1, %s)", (events,))
    writers = Writers(database, range(1, events + 1), threads, gap, hold, seed)
    async with at_work(database, kind) as (worker, _, taken):
        await worker.asleep.wait()
        await writers.finish()
        done = time.monotonic()
        with suppress(TimeoutError):
            await until(lambda: taken.at.keys() >= writers.committed.keys(), 2)
        # The sleep that began after the last commit says nothing.
        worker.sleeps.append((done + 2, done + 2))
    return worker, taken, writers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "gap", "hold"),
    [(8, 0.005, 0.003), (3, 0.06, 0.010), (6, 0.15, 0.006)],
    ids=["busy", "mostly_asleep", "bursts"],
)
async def test_no_wake_up_is_late(database: Database, threads: int, gap: float, hold: float) -> None:
    worker, taken, writers = await write_while_at_work(
        database, Sleeper, events=1500, threads=threads, gap=gap, hold=hold
    )
    late = [taken.at[key] - at for key, at in writers.committed.items()]
    print(f"{len(late)} events, {len(worker.sleeps)} sleeps, the latest after {max(late) * 1000:.1f} ms")
    assert taken.at.keys() == writers.committed.keys()
    assert slept_through(worker, taken.at, writers.committed) == []


async def commit_between_drain_and_gate(database: Database, kind: type[Sleeper], patience: float) -> Taken:
    """A transaction that did not ring, because the worker was awake, commits after the drain and before the lock."""
    key = database.add_plan("Café", "a@example.org")
    async with at_work(database, kind) as (worker, listener, taken):
        await worker.asleep.wait()
        close_gate, quiet = listener.gate.close, psycopg.connect(database.url)

        async def commit_first() -> bool:
            quiet.commit()
            listener.gate.close = close_gate  # type: ignore[method-assign]
            return await close_gate()

        drain = worker._drain

        async def open_then_drain(*, thorough: bool) -> int:
            worker._drain = drain  # type: ignore[method-assign]
            drained = await drain(thorough=thorough)
            # The gate is open now: this transaction sees that nobody needs to be rung.
            await listener.gate.open()
            quiet.execute("UPDATE dateplan SET status = 'VE' WHERE id = %s", (key,))
            listener.gate.close = commit_first  # type: ignore[method-assign]
            return drained

        worker._drain = open_then_drain  # type: ignore[method-assign]
        worker.asleep.clear()
        listener.doorbell.ring("notify")
        await worker.asleep.wait()
        with suppress(TimeoutError):
            await until(lambda: key in taken.at, patience)
        quiet.close()
    return taken


async def test_what_commits_just_before_the_gate_closes_is_found(database: Database) -> None:
    assert (await commit_between_drain_and_gate(database, Sleeper, PATIENCE)).at


async def test_and_is_lost_until_the_poll_without_the_second_drain(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine a claim may count as expensive. The worker then looks again soon, and finds the event.
    monkeypatch.setattr(scan_pace, "_CHEAP_S", POLL)
    assert not (await commit_between_drain_and_gate(database, WithoutSecondDrain, 1)).at


async def test_a_silent_transaction_in_flight_keeps_the_worker_awake(database: Database) -> None:
    key = database.add_plan("Café", "a@example.org")
    async with at_work(database) as (worker, listener, taken):
        await worker.asleep.wait()
        await listener.gate.open()
        with psycopg.connect(database.url) as conn:
            conn.execute("UPDATE dateplan SET status = 'VE' WHERE id = %s", (key,))
            worker.asleep.clear()
            listener.doorbell.ring("notify")
            await asyncio.sleep(0.3)
            assert not worker.asleep.is_set()
        await until(lambda: key in taken.at)


async def test_a_sleeper_is_rung_and_one_awake_is_not(database: Database) -> None:
    keys = [database.add_plan("Café", f"a{i}@example.org") for i in range(2)]
    with psycopg.connect(database.url, autocommit=True) as ear:
        ear.execute("LISTEN pgherald")
        database.verify(keys[0])
        assert list(ear.notifies(timeout=0.2)) == []
        with psycopg.connect(database.url, autocommit=True) as sleeper:
            sleeper.execute("SELECT pg_advisory_lock(726354, 1)")
            database.verify(keys[1])
            rings = list(ear.notifies(timeout=PATIENCE, stop_after=1))
    assert [ring.payload for ring in rings] == [""]


@pytest.mark.slow
async def test_under_load_few_events_ring(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as ear:
        ear.execute("LISTEN pgherald")
        _, taken, writers = await write_while_at_work(database, Sleeper, events=4000, threads=8, gap=0.0002, hold=0.0)
        rings = len([notify for notify in ear.notifies(timeout=0.5) if notify.payload == ""])
    print(f"{len(writers.committed)} events rang {rings} times")
    assert taken.at.keys() == writers.committed.keys()
    assert rings < len(writers.committed) / 4
