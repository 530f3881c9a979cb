"""One LISTEN session: no locks before notifications arrive, nothing believed after its loss."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Literal

import psycopg
import pytest
import structlog

from listener.errors import DatabaseUnavailable
from listener.notify import listener as module
from listener.notify.listener import Listener
from tests.support.clock import jumping, now


class FakeConnection:
    """A session of the fake server. It answers every query with `answer`, or raises it."""

    def __init__(self, server: "FakeServer", pid: int, lost: Callable[[], None]) -> None:
        self.pid = pid
        self.asked: list[str] = []
        self.is_flooded = False
        self.received = self.used = now()
        self._server = server
        self._lost = asyncio.Event()
        self._on_lost = lost

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def execute(self, query: str, values: Any = None) -> None:
        self.asked.append(query if values is None else f"{query} {values}")
        self.used = now()

    async def fetch(self, query: str, values: Any = None) -> tuple[Any, ...]:
        await self.execute(query, values)
        if isinstance(self._server.answer, Exception):
            raise self._server.answer
        return (self._server.answer,)

    async def session(self) -> tuple[int, str]:
        return self.pid, "its start"

    async def end_session(self, session: tuple[int, Any]) -> None:
        self.asked.append(f"end {session}")

    async def wait_until_lost(self, timeout: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._lost.wait(), timeout)

    async def close(self) -> None:
        self._lost.set()

    def lose(self) -> None:
        self._lost.set()
        self._on_lost()


class FakeServer:
    """A server whose notifications arrive while `delivers`, reached through a pooler if `pooled` or `shared`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delivers = True
        self.pooled = self.shared = False
        self.answer: bool | Exception = True
        self.error: Exception | None = None
        self.sessions: list[FakeConnection] = []
        self.statements: list[str] = []
        self.closed = 0
        self.listener = Listener("", self._notify)
        self.listener.presence.assign(7)
        monkeypatch.setattr(module, "connect_as", self._connect)
        monkeypatch.setattr(module, "limited", _no_limit)
        monkeypatch.setattr(module, "refuse_standby", self._refuse_standby)
        monkeypatch.setattr(module, "is_pooled", self._is_pooled)
        monkeypatch.setattr(module, "is_shared", self._is_shared)
        monkeypatch.setattr(module, "NotificationConnection", self._session)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Listener]:
        """Run the listener, from when it knows whether notifications arrive."""
        keeping = asyncio.create_task(self.listener.keep())
        try:
            await asyncio.wait_for(self.listener.ready.wait(), 30)
            yield self.listener
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def execute(self, query: str) -> None:
        self.statements.append(query)

    async def close(self) -> None:
        self.closed += 1

    async def _connect(self, kind: Any, url: str) -> "FakeServer":
        return self

    async def _refuse_standby(self, conn: Any) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    async def _is_pooled(self, conn: Any) -> bool:
        return self.pooled

    async def _is_shared(self, conn: Any, url: str) -> bool:
        return self.shared

    async def _notify(self, payload: str) -> None:
        if self.delivers:
            self.listener._on_notify(payload)

    def _session(self, conn: Any, heard: Any, lost: Callable[[], None]) -> FakeConnection:
        self.sessions.append(FakeConnection(self, 100 + len(self.sessions), lost))
        return self.sessions[-1]


@contextmanager
def _no_limit(*_: Any) -> Iterator[None]:
    yield


@jumping
async def test_a_session_that_hears_its_ring_takes_the_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(monkeypatch)
    async with server.kept() as listener:
        assert (listener.state, listener.pid, listener.reconnects) == ("listening", 100, 0)
        assert (listener.gate.is_leader, listener.presence.held) == (True, True)
        assert listener.changed.is_set()
        assert listener.doorbell.reasons == {"connected", "leader"}
        # An event that commits after LISTEN rings. One that committed before is found by the drain that follows.
        assert server.statements == ["LISTEN pgherald"]


@pytest.mark.parametrize(
    ("pooled", "shared", "listens"), [(False, False, True), (True, False, True), (True, True, False)]
)
@jumping
async def test_without_notifications_the_worker_polls_and_takes_no_lock(
    pooled: bool, shared: bool, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a pooler a lock could stay behind in another client's session, and hold up everybody."""
    server = FakeServer(monkeypatch)
    server.delivers, server.pooled, server.shared = False, pooled, shared
    with structlog.testing.capture_logs() as logs:
        async with server.kept() as listener:
            await asyncio.sleep(60)
            assert (listener.state, listener.pid, listener.is_rung) == ("unreachable", None, False)
            assert (listener.gate.is_leader, listener.presence.held) == (False, False)
            assert "connected" in listener.doorbell.reasons
    asked = [query for session in server.sessions for query in session.asked]
    assert [query for query in asked if "lock" in query] == []
    assert bool(server.statements) is listens
    assert [entry["pooled"] for entry in logs if entry["event"] == "not_listening"] == [pooled]


@jumping
async def test_notifications_that_arrive_later_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(monkeypatch)
    server.delivers = False
    async with server.kept() as listener:
        server.delivers = True
        await asyncio.sleep(15)
        assert (listener.state, listener.gate.is_leader) == ("listening", True)


@jumping
async def test_a_lost_session_holds_nothing_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that still believed itself the leader would sleep, and no commit would ring."""
    server = FakeServer(monkeypatch)
    async with server.kept() as listener:
        listener.doorbell.clear()
        listener.changed.clear()
        server.sessions[0].lose()
        assert (listener.state, listener.pid) == ("down", None)
        assert (listener.gate.is_leader, listener.gate.closed, listener.presence.held) == (False, False, False)
        assert listener.changed.is_set()
        assert listener.doorbell.reasons == {"lost"}
        await asyncio.sleep(2)
        assert (listener.state, listener.pid, listener.reconnects) == ("listening", 101, 1)
        # The server may not know yet that the session before is gone, and it holds the locks.
        assert [query for query in server.sessions[1].asked if query.startswith("end")] == ["end (100, 'its start')"]


@pytest.mark.parametrize("flooded", [False, True])
@jumping
async def test_after_a_flood_the_channel_is_left_alone_for_a_while(
    flooded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that does not keep up fills the server's queue. Then nobody can commit a NOTIFY."""
    server = FakeServer(monkeypatch)
    async with server.kept():
        server.sessions[0].is_flooded = flooded
        server.sessions[0].lose()
        await asyncio.sleep(5)
        assert len(server.sessions) == (1 if flooded else 2)
        await asyncio.sleep(10)
        assert len(server.sessions) == 2


@jumping
async def test_a_server_that_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(monkeypatch)
    server.error = DatabaseUnavailable("a standby")
    with structlog.testing.capture_logs() as logs:
        async with server.kept() as listener:
            assert listener.listening
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["listen_connect_failed"]
    assert server.closed == 1


@pytest.mark.parametrize("answer", [psycopg.OperationalError("gone"), TimeoutError("silent"), False])
@jumping
async def test_a_question_without_answer_keeps_the_worker_awake(
    answer: bool | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer(monkeypatch)
    server.answer = answer
    async with server.kept() as listener:
        assert (listener.gate.is_leader, listener.presence.held) == (False, False)
        # No answer is no proof that another session holds the lock.
        assert listener.presence.taken is (answer is False)
        assert not listener.is_rung


@jumping
async def test_an_idle_session_is_used_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection can die without a sign. The worker must notice that before its lease is over."""
    server = FakeServer(monkeypatch)
    async with server.kept():
        await asyncio.sleep(10)
    assert 3 <= server.sessions[0].asked.count("SELECT true") <= 4


@pytest.mark.parametrize(
    ("state", "flooded", "leads", "closed", "peer_leads", "rung"),
    [
        ("listening", False, True, True, False, True),
        ("listening", False, True, False, True, False),
        ("listening", False, False, False, True, True),
        ("listening", False, False, False, False, False),
        ("listening", True, False, False, True, False),
        ("unreachable", False, False, False, True, False),
        ("down", False, False, False, True, False),
    ],
    ids=["gate closed", "gate open", "a peer leads", "nobody leads", "flooded", "unreachable", "down"],
)
@jumping
async def test_only_a_worker_that_is_rung_may_sleep_long(
    state: Literal["down", "listening", "unreachable"],
    flooded: bool,
    leads: bool,
    closed: bool,
    peer_leads: bool,
    rung: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = FakeServer(monkeypatch).listener
    listener.state = state
    listener.gate.is_leader, listener.gate.closed = leads, closed
    listener.peers.update(1, have_leader=peer_leads)
    if flooded:
        for number in range(600):
            listener._on_notify(f"foreign {number}")
        assert listener.doorbell.reasons == {"flood"}
    assert listener.is_rung is rung


@pytest.mark.parametrize(
    ("state", "leads", "peer_leads", "suspects"),
    [
        ("listening", False, False, True),
        ("listening", False, True, False),
        ("listening", True, False, False),
        ("down", False, False, False),
    ],
)
@jumping
async def test_a_leader_lock_that_no_worker_holds_is_suspicious(
    state: Literal["down", "listening", "unreachable"],
    leads: bool,
    peer_leads: bool,
    suspects: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody holds it, or this worker would: it asks four times a second."""
    listener = FakeServer(monkeypatch).listener
    listener.state = state
    listener.gate.is_leader = leads
    listener.peers.update(1, have_leader=peer_leads)
    assert listener.suspects_stranger is suspects


@pytest.mark.parametrize(("payload", "reasons"), [("", {"notify"}), ("another daemon's token", set())])
@jumping
async def test_only_a_triggers_notification_wakes(
    payload: str, reasons: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = FakeServer(monkeypatch).listener
    listener._on_notify(payload)
    assert listener.doorbell.reasons == reasons


@jumping
async def test_with_a_longer_poll_it_tests_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(monkeypatch)
    server.listener._poll_s = 600.0
    tests: list[float] = []
    async with server.kept() as listener:
        run = listener.self_test.run

        async def counted(received: Callable[[], float]) -> bool:
            tests.append(now())
            return await run(received)

        monkeypatch.setattr(listener.self_test, "run", counted)
        await asyncio.sleep(1500)
    assert len(tests) == 2
    assert server.sessions[0].asked.count("SELECT true") == pytest.approx(4, abs=1)
