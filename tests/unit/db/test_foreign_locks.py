"""A holder counts as foreign only if two looks find it, and has a remedy that ends it."""

import pytest

from listener.db import foreign_locks
from listener.db.foreign_locks import LockHolder, strangers

STAYS = LockHolder("gate", 7, "app", "psql", None)
GOES = LockHolder("presence", 8, "app", "pgherald", None)
PREPARED = LockHolder("leader", None, "app", "unknown", "it's")


async def test_a_holder_that_is_gone_at_the_second_look_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_locks, "_RECHECK_DELAY_S", 0.0)
    looks = iter([[STAYS, GOES], [PREPARED, STAYS]])

    async def look() -> list[LockHolder]:
        return next(looks)

    assert await strangers(look) == [STAYS]


async def test_without_a_holder_there_is_one_look() -> None:
    looks = iter([[]])

    async def look() -> list[LockHolder]:
        return next(looks)

    assert await strangers(look) == []


def test_the_remedy_names_the_session_or_the_prepared_transaction() -> None:
    assert (STAYS.name, STAYS.remedy) == ("pid 7 (user app, application psql)", "SELECT pg_terminate_backend(7)")
    assert PREPARED.remedy == "ROLLBACK PREPARED 'it''s'"
    assert "it's" in PREPARED.name
