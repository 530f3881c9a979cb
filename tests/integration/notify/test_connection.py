"""The LISTEN connection: what it does with an answer that is late, a query that fails, and a channel that others use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from listener.db.connection import parameters
from listener.db.foreign_locks import LockHolder, strangers
from listener.notify import connection as module
from listener.notify.connection import ListenConnection, NotificationConnection
from listener.notify.gate import Gate
from listener.notify.listener import Listener
from tests.support import wait_until_async
from tests.support.database import Database


class Ear:
    def __init__(self, direct: NotificationConnection, heard: list[str], lost: list[bool]) -> None:
        self.direct, self.heard, self.lost = direct, heard, lost


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Ear]:
    conn = await ListenConnection.connect(**parameters(database.url), autocommit=True)
    await conn.execute("LISTEN pgherald")
    heard: list[str] = []
    lost: list[bool] = []
    direct = NotificationConnection(conn, heard.append, lambda: lost.append(True))
    try:
        yield Ear(direct, heard, lost)
    finally:
        await direct.close()


async def test_a_query_that_the_server_refuses_ends_nothing(bare_database: Database) -> None:
    async with listening(bare_database) as ear:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await ear.direct.fetch("SELECT 1 / 0")
        assert await ear.direct.fetch("SELECT true") == (True,)
        bare_database.execute("SELECT pg_notify('pgherald', 'x')")
        await wait_until_async(lambda: ear.heard == ["x"])
        assert ear.lost == []


async def test_what_comes_before_an_answer_is_heard_before_it(bare_database: Database) -> None:
    async with listening(bare_database) as ear:
        bare_database.execute("SELECT pg_notify('pgherald', repeat('x', 7000) || n) FROM generate_series(1, 500) AS n")
        assert await ear.direct.fetch("SELECT true") == (True,)
        await wait_until_async(lambda: len(ear.heard) == 500)


async def test_patience_is_for_silence(bare_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.4)
    async with listening(bare_database) as ear:
        coming = asyncio.create_task(_something_comes(ear.direct))
        # Behind the notifications that come meanwhile.
        assert await ear.direct.fetch("SELECT true FROM pg_sleep(1.5)") == (True,)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        # Read the last notification before the silence begins.
        assert await ear.direct.fetch("SELECT true FROM pg_sleep(0.2)") == (True,)
        with pytest.raises(TimeoutError):
            await ear.direct.fetch("SELECT true FROM pg_sleep(3)")
        assert (ear.lost, ear.direct.is_flooded) == ([True], False)


async def test_who_does_not_catch_up_lets_go(bare_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.4)
    monkeypatch.setattr(module, "_FLOODED_TIMEOUT_S", 1.0)
    async with listening(bare_database) as ear:
        coming = asyncio.create_task(_something_comes(ear.direct))
        with pytest.raises(TimeoutError):
            await ear.direct.fetch("SELECT true FROM pg_sleep(5)")
        coming.cancel()
        assert (ear.lost, ear.direct.is_flooded) == ([True], True)


async def _something_comes(direct: NotificationConnection) -> None:
    while True:
        direct.received = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)


async def test_a_flood_wakes_who_sleeps_and_rings_are_trusted_no_more() -> None:
    async def ring(_: str) -> None: ...

    listener = Listener("", ring)
    listener.state = "listening"
    assert not listener.is_rung
    listener.peers.update(1, have_leader=True)
    assert listener.is_rung
    for number in range(600):
        listener._on_notify(f"a stranger's {number}")
    assert not listener.is_rung
    assert listener.doorbell.is_rung


async def test_without_a_leader_nobody_is_rung() -> None:
    async def ring(_: str) -> None: ...

    listener = Listener("", ring)
    listener.state = "listening"
    listener.peers.update(1, have_leader=True)
    assert not listener.doorbell.is_rung
    listener.peers.update(1, have_leader=False)
    assert (listener.is_rung, listener.doorbell.is_rung) == (False, True)


class Server:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: asyncio.Queue[bool] = asyncio.Queue()

    async def ask(self, query: str) -> bool:
        self.asked.append("open" if "unlock" in query else "close")
        return await self.answers.get()


async def test_the_gate_waits_for_no_late_answer_and_is_moved_in_order() -> None:
    server = Server()
    gate = Gate(server.ask)
    gate.is_leader = True
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert not await gate.close()
    await gate.open()
    # The close was requested and is not confirmed, so the gate must not count as closed.
    server.answers.put_nowait(True)
    assert not await gate.close()
    assert loop.time() - begun < 5
    server.answers.put_nowait(True)
    server.answers.put_nowait(True)
    while not await gate.close():
        pass
    assert server.asked == ["close", "open", "close"]


async def test_a_stranger_is_who_is_seen_twice() -> None:
    come, stays = (LockHolder("leader", pid, "a", "b", None) for pid in (1, 2))
    looks: Any = iter([[come, stays], [stays]])

    async def look() -> list[LockHolder]:
        return list(next(looks))

    assert await strangers(look) == [stays]
