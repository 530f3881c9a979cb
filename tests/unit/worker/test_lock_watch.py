"""A stranger's lock is reported once, with its remedy, and reported again when it is released."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from listener.db.foreign_locks import LockHolder
from listener.errors import DatabaseUnavailable
from listener.worker.lock_watch import LockWatch
from tests.support.clock import jumping

GATE = LockHolder("gate", 11, "app", "psql", None)
PREPARED = LockHolder("leader", None, "app", "", "it's")
INSTALLER = LockHolder("installer", 12, "admin", "pgherald", None)
DOWN = DatabaseUnavailable("down")

HELD, RELEASED = "lock_held_by_other_session", "foreign_lock_released"


class FakeRegistry:
    """Finds the holders of the next of `looks`."""

    def __init__(self, *looks: list[LockHolder] | DatabaseUnavailable) -> None:
        self.left = list(looks)

    async def foreign_locks(self) -> list[LockHolder]:
        found = self.left.pop(0)
        if isinstance(found, DatabaseUnavailable):
            raise found
        return found


def listener(*, suspects: bool) -> Any:
    return SimpleNamespace(suspects_stranger=suspects, gate=SimpleNamespace(held_by_stranger=False))


async def watch(registry: FakeRegistry, listener: Any, seconds: float) -> list[tuple[str, str]]:
    """Watch for `seconds`, and return the log lines as (event, lock)."""
    with structlog.testing.capture_logs() as logs, suppress(TimeoutError):
        await asyncio.wait_for(LockWatch(registry, listener).run(), seconds)  # type: ignore[arg-type]
    return [(entry["event"], entry["lock"]) for entry in logs]


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([[GATE], []], []),
        ([[GATE], [GATE], [GATE]], [(HELD, "gate")]),
        ([[GATE], [GATE], []], [(HELD, "gate"), (RELEASED, "gate")]),
        ([[GATE], [GATE], DOWN, [GATE]], [(HELD, "gate")]),
        ([[GATE], [GATE, PREPARED], [PREPARED]], [(HELD, "gate"), (HELD, "leader"), (RELEASED, "gate")]),
        ([[INSTALLER], [INSTALLER]], []),
    ],
    ids=["a new worker", "once", "released", "an outage between", "two", "an installer"],
)
@jumping
async def test_what_looks_find_is_said(looks: list[Any], said: list[tuple[str, str]]) -> None:
    """A worker that has just come holds its lock before its row names it, so one look proves nothing."""
    assert await watch(FakeRegistry(*looks), listener(suspects=True), len(looks) + 0.5) == said


@jumping
async def test_without_suspicion_the_database_is_left_alone() -> None:
    registry = FakeRegistry([GATE])
    assert await watch(registry, listener(suspects=False), 10) == []
    assert registry.left == [[GATE]]


@jumping
async def test_a_stranger_that_was_reported_is_watched_until_it_goes() -> None:
    """The worker may suspect nothing any more, and the operator still waits to read that the lock is free."""
    one = listener(suspects=True)
    asyncio.get_running_loop().call_later(2.5, setattr, one, "suspects_stranger", False)
    said = await watch(FakeRegistry([GATE], [GATE], [GATE], []), one, 6)
    assert said == [(HELD, "gate"), (RELEASED, "gate")]


@pytest.mark.parametrize(("found", "held"), [([GATE], True), ([PREPARED], False)])
@jumping
async def test_a_gate_that_a_stranger_holds_is_known_at_once(found: list[LockHolder], held: bool) -> None:
    """The worker then sleeps: it would never get the gate, and each commit rings anyway."""
    one = listener(suspects=True)
    await watch(FakeRegistry(found), one, 1.5)
    assert one.gate.held_by_stranger is held


@jumping
async def test_the_remedy_can_be_pasted() -> None:
    with structlog.testing.capture_logs() as logs, suppress(TimeoutError):
        looks = FakeRegistry([GATE, PREPARED], [GATE, PREPARED])
        await asyncio.wait_for(LockWatch(looks, listener(suspects=True)).run(), 2.5)  # type: ignore[arg-type]
    assert {entry["remedy"] for entry in logs} == {"SELECT pg_terminate_backend(11)", "ROLLBACK PREPARED 'it''s'"}
