"""One query serves all readers, and the last answer outlives an outage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listener.errors import DatabaseUnavailable
from listener.status import overview_cache as module
from listener.status.overview import Overview
from listener.status.overview_cache import OverviewCache
from tests.support.clock import jumping
from tests.support.overview import overview

ANSWER = overview(available=3)


class Database:
    """Answers after `takes` seconds, or refuses with `error`. It counts the queries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.takes = 0.1
        self.error: Exception | None = None
        self.queries = 0
        monkeypatch.setattr(module, "read_overview", self._read)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        yield None

    async def _read(self, _: Any) -> Overview:
        self.queries += 1
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return ANSWER


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(monkeypatch)


@jumping
async def test_many_readers_cause_one_query(database: Database) -> None:
    cache = OverviewCache(database)  # type: ignore[arg-type]
    assert await asyncio.gather(*(cache.get(1, fresh=1, stale=5) for _ in range(3))) == [ANSWER] * 3
    assert database.queries == 1
    await asyncio.sleep(1)
    await cache.get(1, fresh=1, stale=5)
    assert database.queries == 2


@jumping
async def test_the_last_answer_and_the_cause_are_kept_through_an_outage(database: Database) -> None:
    cache = OverviewCache(database)  # type: ignore[arg-type]
    await cache.get(1, fresh=1, stale=5)
    assert (cache.latest, cache.error) == (ANSWER, None)
    database.error = DatabaseUnavailable("connection refused")
    await asyncio.sleep(4)
    assert await cache.get(1, fresh=1, stale=5) is ANSWER
    await asyncio.sleep(4)
    assert await cache.get(1, fresh=1, stale=5) is None
    assert (cache.latest, cache.error) == (ANSWER, "connection refused")
    assert cache.age > 5
    database.error = None
    assert await cache.get(1, fresh=1, stale=5) is ANSWER
    assert cache.error is None


@jumping
async def test_a_silent_database_delays_nobody_for_long(database: Database) -> None:
    database.takes = 60
    cache = OverviewCache(database)  # type: ignore[arg-type]
    assert await cache.get(1, fresh=1, stale=5) is None
    assert database.queries == 1
    await cache.close()
