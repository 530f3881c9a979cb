"""The lease that this worker believes in is never longer than the one in the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listener.outbox.registration import Registration
from listener.worker import registry as module
from listener.worker.registry import QUERIES, Peer, Rescue, WorkerRegistry
from listener.worker.suspensions import Suspension
from tests.support.events import CAPTURED_AT

STATE: dict[str, Any] = {
    "has_presence_lock": True,
    "listening": True,
    "leader": False,
    "pid": 100,
    "breaker_reason": "refused: caf\u00e9 \0",
    "suspended": {"paid": Suspension(CAPTURED_AT, "no column caf\u00e9 \0")},
}


class Database:
    """Answers each query with `rows`, 2 s after it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Any] = []
        self.values: dict[str, Any] = {}
        self.now = 100.0
        self.registration = Registration(10.0)
        self.registry = WorkerRegistry(None, self.registration, list)  # type: ignore[arg-type]
        monkeypatch.setattr(self.registration, "clock", lambda: self.now)
        monkeypatch.setattr(module, "run_query", self._run)

    async def _run(self, pool: Any, query: str, values: dict[str, Any]) -> list[Any]:
        self.values = values
        self.now += 2
        return self.rows

    def leased_for(self) -> float:
        """Return how many more seconds this worker would send."""
        begun, left = self.now, 0.0
        while self.registration.is_leased(self.registration.worker) and left < 60:
            left += 0.5
            self.now = begun + left
        self.now = begun
        return left


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(monkeypatch)


async def test_a_lease_counts_from_the_request_and_not_from_the_answer(database: Database) -> None:
    """Nine tenths of 10 s, less the 2 s that the answer took. Longer, and another worker sends the same email."""
    database.rows = [(5, 55, False)]
    await database.registry.register()
    assert (database.registration.worker, database.registration.presence_lock) == (5, 55)
    assert database.leased_for() == 7
    database.now += 6
    database.rows = [(True,)]
    assert await database.registry.renew(**STATE)
    assert database.leased_for() == 7


async def test_a_lease_that_was_not_renewed_is_not_extended(database: Database) -> None:
    database.rows = [(5, 55, True)]
    await database.registry.register()
    database.rows = []
    assert not await database.registry.renew(**STATE)
    assert database.leased_for() == 5


@pytest.mark.parametrize(("utf8", "stored"), [(True, "refused: caf\u00e9 \\0"), (False, "refused: caf\\xe9 \\0")])
async def test_what_a_mail_server_says_can_be_stored(database: Database, utf8: bool, stored: str) -> None:
    """A reply that the database refuses would fail every renewal, and with it the worker."""
    database.rows = [(5, 55, utf8)]
    await database.registry.register()
    await database.registry.renew(**STATE)
    assert database.values["breaker_reason"] == stored
    assert database.values["suspended_reasons"] == [stored.replace("refused:", "no column")]
    assert (database.values["suspended_rules"], database.values["suspended_since"]) == (["paid"], [CAPTURED_AT])


@pytest.mark.parametrize(("rows", "number"), [([(56,)], 56), ([], 55)])
async def test_an_ended_registration_keeps_its_number(database: Database, rows: list[Any], number: int) -> None:
    database.rows = [(5, 55, True)]
    await database.registry.register()
    database.rows = rows
    assert await database.registry.renumber() == number == database.registration.presence_lock


class Connection:
    """Notes the queries, and answers a rescue with `rescue`."""

    def __init__(self, rescue: Rescue) -> None:
        self.asked: list[str] = []
        self.values: dict[str, Any] = {}
        self._rescue = rescue

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        yield self

    @asynccontextmanager
    async def cursor(self, **_: Any) -> AsyncIterator["Connection"]:
        yield self

    async def execute(self, query: str, values: dict[str, Any] | None = None) -> None:
        self.asked.append(query)
        self.values |= values or {}

    async def fetchone(self) -> Rescue:
        return self._rescue


@pytest.mark.parametrize(("due", "asked"), [(0, ["rescue"]), (2, ["rescue", "resend"])])
async def test_events_in_doubt_that_are_due_are_sent_again(due: int, asked: list[str]) -> None:
    conn = Connection(Rescue(None, 0, 0, due))
    registry = WorkerRegistry(conn, Registration(10.0), lambda: ["dateplan_verified"])  # type: ignore[arg-type]
    dead = Peer(2, CAPTURED_AT, lease=3.0, gone=True, leader=False, lock=20, pid=None)
    await registry.rescue([dead])
    assert conn.asked == [QUERIES[name] for name in asked]
    # The database leaves a worker alone that has renewed its lease after it was seen.
    assert (conn.values["dead"], conn.values["seen"], conn.values["hold"]) == (
        [2],
        [CAPTURED_AT],
        ["dateplan_verified"],
    )
