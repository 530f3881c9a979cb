"""A dead worker's events are rescued in time, and a live worker's never, whatever this worker itself goes through."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from listener.errors import DatabaseUnavailable
from listener.notify.doorbell import Doorbell
from listener.notify.peers import Peers
from listener.notify.presence import PresenceLock
from listener.outbox.registration import Registration
from listener.worker.lease import WorkerLease
from listener.worker.registry import Peer, Rescue
from listener.worker.suspensions import Suspension
from tests.support.clock import JumpingLoop, jumping, now
from tests.support.events import CAPTURED_AT

LEASE_S = 10.0
PEER = Peer(2, CAPTURED_AT, lease=3.0, gone=False, leader=False, lock=20, pid=200)
NOTHING = Rescue(None, freed=0, doubted=0, due=0)

Look = Callable[[float], list[Peer]]


class FakeRegistry:
    """A database with the peers that `look` returns for a time. It notes rescues and renewals with their times."""

    def __init__(self, look: Look = lambda _: []) -> None:
        self.registration = Registration(LEASE_S)
        self.registration.worker, self.registration.presence_lock = 1, 10
        self.rescued: dict[int, float] = {}
        self.ended: list[int] = []
        self.renewals: list[tuple[float, dict[str, Any]]] = []
        self.registered_at: list[float] = []
        self.is_expired = False
        self.holds_doubts_of: list[str] = []
        self.result = NOTHING
        self._look = look

    async def peers(self) -> list[Peer]:
        return [peer for peer in self._look(now()) if peer.id not in self.rescued]

    async def rescue(self, dead: Sequence[Peer]) -> Rescue:
        self.rescued.update((peer.id, now()) for peer in dead)
        return self.result

    async def end_sessions(self, dead: Sequence[Peer]) -> None:
        self.ended += [peer.id for peer in dead]

    async def renew(self, **state: Any) -> bool:
        self.renewals.append((now(), state))
        return not self.is_expired

    async def register(self) -> None:
        self.registered_at.append(now())
        self.is_expired = False
        self.registration.presence_lock += 1

    async def renumber(self) -> int:
        self.registration.presence_lock += 1
        return self.registration.presence_lock

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FakeListener:
    """A LISTEN session that is up. It gets every presence lock but those in `foreign`."""

    def __init__(self) -> None:
        self.foreign: set[str] = set()
        self.changed = asyncio.Event()
        self.doorbell = Doorbell()
        self.presence = PresenceLock(self._ask)
        self.presence.assign(10)
        self.peers = Peers(self._notify, self.doorbell)
        self.gate = SimpleNamespace(is_leader=False)
        self.listening = True
        self.pid = 100

    async def acquire_presence_lock(self) -> None:
        if await self.presence.acquire():
            self.changed.set()

    async def _ask(self, query: str) -> bool:
        return query not in self.foreign

    async def _notify(self, payload: str) -> None: ...


def lease_of(registry: FakeRegistry, listener: FakeListener) -> WorkerLease:
    breaker: Any = SimpleNamespace(reason=None, is_open=False)
    return WorkerLease(registry, listener, breaker)  # type: ignore[arg-type]


async def keep(
    registry: FakeRegistry,
    listener: FakeListener,
    seconds: float,
    suspended: Callable[[], dict[str, Suspension]] = dict,
) -> WorkerLease:
    lease = lease_of(registry, listener)
    with suppress(TimeoutError):
        await asyncio.wait_for(lease.keep(suspended), seconds)
    return lease


def silent(at: float) -> list[Peer]:
    return [PEER]


def renewing(at: float) -> list[Peer]:
    return [replace(PEER, seen_at=CAPTURED_AT + timedelta(seconds=int(at)))]


def gone(since: float, until: float = math.inf) -> Look:
    """Return the look at a peer that renews its lease, and whose session is gone for a time."""
    return lambda at: [replace(peer, gone=since <= at < until) for peer in renewing(at)]


def silent_from_two(at: float) -> list[Peer]:
    return renewing(min(at, 2.0))


def silent_through_an_outage(at: float) -> list[Peer]:
    if 2 <= at < 2.5:
        raise DatabaseUnavailable("down")
    return [PEER]


def silent_through_a_suspension(at: float) -> list[Peer]:
    if at == 2:
        # This process is stopped during the query and goes on 6 s later. Its own lease lasts 10 s.
        cast(JumpingLoop, asyncio.get_running_loop()).now += 6
    return [PEER]


@pytest.mark.parametrize(
    ("look", "rescued_at"),
    [
        (gone(0), 0.5),
        (gone(1), 1.5),
        (gone(1, until=1.5), None),
        (silent, 3.25),
        (silent_from_two, 5.25),
        (renewing, None),
        (silent_through_an_outage, 2.5 + 3.25),
        (silent_through_a_suspension, 8.25 + 3.25),
    ],
    ids=["gone at once", "gone", "gone for a moment", "silent", "silent later", "alive", "outage", "own suspension"],
)
@jumping
async def test_a_peer_is_rescued_once_it_is_dead(
    look: Look, rescued_at: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too early, and one email is sent twice. Too late, and emails wait for a worker that does not come back."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    registry = FakeRegistry(look)
    await keep(registry, FakeListener(), 20)
    if rescued_at is None:
        assert registry.rescued == {}
    else:
        # After the outage the looks come at other moments.
        assert registry.rescued == {2: pytest.approx(rescued_at, abs=0.3)}
    # The server may hold a silent worker's locks for hours. A worker whose session is gone holds none.
    assert registry.ended == ([2] if look.__name__.startswith("silent") else [])


@pytest.mark.parametrize(
    ("result", "reasons", "logged"),
    [
        (NOTHING, set(), False),
        (replace(NOTHING, names=["b:2"], freed=3), {"rescued"}, True),
        (replace(NOTHING, doubted=1), set(), True),
        (replace(NOTHING, due=1), {"rescued"}, False),
    ],
    ids=["nothing", "available again", "in doubt", "due again"],
)
@jumping
async def test_rescued_events_wake_the_worker(result: Rescue, reasons: set[str], logged: bool) -> None:
    """A rescued event sends no NOTIFY. Without the ring it waits for the next poll, up to a minute."""
    registry, listener = FakeRegistry(gone(0)), FakeListener()
    registry.result = result
    with structlog.testing.capture_logs() as logs:
        await keep(registry, listener, 0.6)
    assert listener.doorbell.reasons == reasons
    assert ("workers_rescued" in [entry["event"] for entry in logs]) is logged


@jumping
async def test_the_first_look_is_done_once_the_dead_are_rescued() -> None:
    """`pgherald run --once` ends after it, and must have delivered what a dead worker had claimed."""
    for seconds, done in ((0.4, False), (0.6, True)):
        assert (await keep(FakeRegistry(gone(0)), FakeListener(), seconds)).first_look_done.is_set() is done
    assert (await keep(FakeRegistry(), FakeListener(), 0.1)).first_look_done.is_set()


@jumping
async def test_a_leader_whose_session_is_gone_is_no_leader() -> None:
    """Without a leader no commit rings, so a worker that goes on sleeping would be late."""
    listener = FakeListener()
    await keep(FakeRegistry(lambda at: [replace(PEER, leader=True, gone=at >= 1)]), listener, 1.1)
    assert listener.doorbell.reasons == {"no leader"}
    assert not listener.peers.have_leader


@jumping
async def test_an_expired_lease_registers_again_with_another_presence_lock() -> None:
    """Under its old row this worker counts as dead, and its claims would belong to nobody."""
    registry, listener = FakeRegistry(), FakeListener()
    await listener.acquire_presence_lock()
    registry.is_expired = True
    lease = lease_of(registry, listener)
    with structlog.testing.capture_logs() as logs:
        await lease._renew({})
    assert [entry["event"] for entry in logs] == ["lease_expired"]
    assert (registry.registered_at, listener.presence._number, listener.presence.held) == ([0.0], 11, False)
    # The new row does not yet say that this worker listens.
    await lease._renew({})
    assert len(registry.renewals) == 2


@jumping
async def test_a_taken_presence_lock_is_replaced_before_the_row_names_it() -> None:
    """Peers look for the lock that the row names. Another session's lock would hide this worker's death."""
    registry, listener = FakeRegistry(), FakeListener()
    listener.foreign = {"SELECT pg_try_advisory_lock(726355, 10)"}
    await listener.acquire_presence_lock()
    assert listener.presence.taken
    await keep(registry, listener, 0.1)
    assert registry.registration.presence_lock == 11
    assert [state["has_presence_lock"] for _, state in registry.renewals] == [True]


@jumping
async def test_the_lease_is_renewed_every_quarter_and_with_every_change() -> None:
    registry, listener = FakeRegistry(), FakeListener()

    def lose_session() -> None:
        listener.listening = False
        listener.changed.set()

    def reload() -> None:
        registry.holds_doubts_of = ["dateplan_verified"]

    asyncio.get_running_loop().call_later(6.1, lose_session)
    asyncio.get_running_loop().call_later(7.3, reload)
    await keep(registry, listener, 8.4)
    assert [(at, state["listening"]) for at, state in registry.renewals] == [
        (0.0, True),
        (2.5, True),
        (5.0, True),
        (6.1, False),
        (7.35, False),
    ]


@jumping
async def test_a_suspension_and_its_end_are_written_at_once() -> None:
    registry, suspension = FakeRegistry(), {"paid": Suspension(CAPTURED_AT, "no column")}
    await keep(registry, FakeListener(), 2, lambda: suspension if 0.6 < now() < 1.4 else {})
    assert [(at, state["suspended"]) for at, state in registry.renewals] == [(0.0, {}), (0.75, suspension), (1.5, {})]


@pytest.mark.parametrize(("poll", "looks"), [(5.0, 400), (600.0, 40)])
@jumping
async def test_a_worker_alone_looks_less_often_with_a_longer_poll(poll: float, looks: int) -> None:
    """An idle daemon may be all that keeps a database awake."""
    times: list[float] = []
    registry = FakeRegistry(lambda at: times.append(at) or [])  # type: ignore[func-returns-value]
    breaker: Any = SimpleNamespace(reason=None, is_open=False)
    lease = WorkerLease(registry, FakeListener(), breaker, poll)  # type: ignore[arg-type]
    with suppress(TimeoutError):
        await asyncio.wait_for(lease.keep(lambda: {}), 100)
    assert len(times) == pytest.approx(looks, abs=2)
    # The lease lasts 10 s and must not expire in between.
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(registry.renewals)) <= LEASE_S / 2


@jumping
async def test_a_worker_with_peers_looks_often_whatever_its_poll_is() -> None:
    times: list[float] = []
    registry = FakeRegistry(lambda at: times.append(at) or renewing(at))  # type: ignore[func-returns-value]
    breaker: Any = SimpleNamespace(reason=None, is_open=False)
    lease = WorkerLease(registry, FakeListener(), breaker, 600.0)  # type: ignore[arg-type]
    with suppress(TimeoutError):
        await asyncio.wait_for(lease.keep(lambda: {}), 10)
    assert len(times) == pytest.approx(40, abs=2)
