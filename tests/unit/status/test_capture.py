"""Each change of what is captured is logged once, and a check that fails says nothing about the capture."""

import asyncio
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import structlog

from listener.db import schema
from listener.errors import SchemaError
from listener.status import capture as module
from listener.status.capture import CaptureWatch
from tests.support.clock import jumping


class FakeDatabase:
    """The database as the check sees it: `found` are the problems by rule, and `error` is raised instead."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.error: Exception | None = None
        self.checks = 0

    async def connect(self, url: str) -> "FakeDatabase":
        return self

    async def __aenter__(self) -> "FakeDatabase":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def problems(self, conn: object, rules: object) -> dict[str, str]:
        self.checks += 1
        if self.error is not None:
            raise self.error
        return self.found

    async def version(self, conn: object) -> Any:
        return "version 1"


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    database = FakeDatabase()
    monkeypatch.setattr(module, "connect_async", database.connect)
    monkeypatch.setattr(module, "usable_version", database.version)
    monkeypatch.setattr(schema, "capture_problems", database.problems)
    return database


def watch(*rules: str) -> CaptureWatch:
    return CaptureWatch("", lambda: dict.fromkeys(rules, SimpleNamespace()))  # type: ignore[arg-type]


async def logged(watch: CaptureWatch) -> list[tuple[str, str]]:
    watch._checked_at = -1000.0
    with structlog.testing.capture_logs() as logs:
        await watch.state()
    return [(entry["event"], entry["rule"]) for entry in logs]


async def test_each_change_of_each_rule_is_logged_once(database: FakeDatabase) -> None:
    capture = watch("paid", "verified")
    assert await logged(capture) == []
    assert await capture.state() == (True, "version 1; triggers of 2 rules installed")
    database.found = {"paid": "no table", "verified": "no trigger"}
    assert await logged(capture) == [("capture_stopped", "paid"), ("capture_stopped", "verified")]
    assert capture.problems == database.found
    assert await logged(capture) == []
    assert await capture.state() == (False, "no table; no trigger")
    database.found = {"paid": "no column"}
    assert await logged(capture) == [("capture_stopped", "paid"), ("capture_resumed", "verified")]
    assert capture.problems == {"paid": "no column", "verified": None}


async def test_a_rule_that_was_taken_out_has_not_resumed(database: FakeDatabase) -> None:
    rules = {"paid": SimpleNamespace(), "verified": SimpleNamespace()}
    capture = CaptureWatch("", lambda: rules)  # type: ignore[arg-type, return-value]
    database.found = {"paid": "no table"}
    await logged(capture)
    del rules["paid"]
    database.found = {}
    assert await logged(capture) == []


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("refused"), SchemaError("refused"), psycopg.DataError("refused")]
)
async def test_while_the_database_does_not_answer_nothing_is_known(database: FakeDatabase, error: Exception) -> None:
    """The gauge has a gap then. Neither value would be true, and another alert rings."""
    capture = watch("paid")
    await logged(capture)
    database.error = error
    assert await logged(capture) == []
    assert capture.problems == {}
    ok, detail = await capture.state()
    assert not ok
    assert "refused" in detail


@jumping
async def test_it_checks_every_ten_seconds_however_often_it_is_asked(database: FakeDatabase) -> None:
    capture = watch("paid")
    task = asyncio.create_task(capture.run())
    for _ in range(100):
        await asyncio.sleep(1)
        await capture.state()
    assert 10 <= database.checks <= 11
    task.cancel()


@jumping
async def test_a_check_that_a_probe_asked_for_does_not_delay_the_next(database: FakeDatabase) -> None:
    """The change would be told up to twenty seconds late."""
    capture = watch("paid")
    await asyncio.sleep(1)
    await capture.state()
    await asyncio.sleep(1)
    task = asyncio.create_task(capture.run())
    await asyncio.sleep(9.5)
    assert database.checks == 2
    task.cancel()


@jumping
async def test_with_a_longer_poll_it_checks_at_the_poll_and_when_a_probe_asks(database: FakeDatabase) -> None:
    capture = CaptureWatch("", lambda: {}, 600.0)
    task = asyncio.create_task(capture.run())
    await asyncio.sleep(590)
    assert database.checks == 1
    await capture.state()
    assert database.checks == 2
    task.cancel()
