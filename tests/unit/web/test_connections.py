"""The limit on HTTP connections: the oldest give way, and no number of them leaves delivery without descriptors."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from listener.web import connections
from listener.web.connections import ConnectionLimit, LimitedRunner, max_connections

LIMIT = 8


@asynccontextmanager
async def serving(limit: int = LIMIT) -> AsyncIterator[tuple[LimitedRunner, tuple[str, int], asyncio.Event]]:
    """Yield the runner, its address, and an event that lets the requests of /slow end."""
    ready = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await ready.wait()
        return web.Response(text="slow")

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="alive")

    async def body(request: web.Request) -> web.Response:
        return web.Response(text=await request.text())

    limiter = ConnectionLimit(limit)
    app = web.Application(middlewares=[limiter.middleware])
    app.add_routes([web.get("/slow", slow), web.post("/body", body), web.get("/livez", livez)])
    runner = LimitedRunner(app, limiter, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, socket.create_server(("127.0.0.1", 0))).start()
    try:
        yield runner, runner.addresses[0][:2], ready
    finally:
        ready.set()
        await runner.cleanup()


async def ask(address: tuple[str, int], path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address[0]}:{address[1]}{path}") as response,
    ):
        return await response.text()


async def test_the_oldest_idle_connection_gives_way() -> None:
    async with serving() as (_, address, _):
        strangers = [await asyncio.open_connection(*address) for _ in range(3 * LIMIT)]
        assert await ask(address, "/livez") == "alive"
        # The server has closed them in their order.
        for reader, _ in strangers[: 2 * LIMIT]:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 30) == b""
        assert not strangers[-1][0].at_eof()
        for _, writer in strangers:
            writer.close()


async def test_a_request_is_answered_while_idle_connections_give_way() -> None:
    async with serving() as (_, address, ready):
        slow = asyncio.create_task(ask(address, "/slow"))
        strangers = [await asyncio.open_connection(*address) for _ in range(LIMIT)]
        assert await ask(address, "/livez") == "alive"
        ready.set()
        assert await asyncio.wait_for(slow, 30) == "slow"
        for _, writer in strangers:
            writer.close()


async def test_at_the_limit_the_oldest_request_gives_way() -> None:
    async with serving() as (runner, address, ready):
        # aiohttp's client would ask again on a new connection.
        slow = []
        for _ in range(LIMIT):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /slow HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            slow.append((reader, writer))
            async with asyncio.timeout(30):
                while len(runner._limit._busy) < len(slow):
                    await asyncio.sleep(0.01)
        assert await asyncio.wait_for(ask(address, "/livez"), 30) == "alive"
        answers = [asyncio.create_task(reader.read()) for reader, _ in slow]
        assert await asyncio.wait_for(answers[0], 30) == b""
        ready.set()
        for answer in answers[1:]:
            assert (await asyncio.wait_for(answer, 30)).endswith(b"slow")
        for _, writer in slow:
            writer.close()


async def test_a_probe_is_answered_while_bodies_never_arrive() -> None:
    async with serving() as (_, address, _):
        head = b"POST /body HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n1"
        strangers = []
        for _ in range(3 * LIMIT):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(head)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            strangers.append((reader, writer))
            assert await asyncio.wait_for(ask(address, "/livez"), 30) == "alive"
        for _, writer in strangers:
            writer.close()


@pytest.mark.parametrize(
    ("descriptors", "allowed"),
    [(1024, 200), (400, 100), (64, 16), (4, 2), (1_000_000, 200), (resource.RLIM_INFINITY, 200)],
)
def test_the_limit_follows_that_of_descriptors(monkeypatch: pytest.MonkeyPatch, descriptors: int, allowed: int) -> None:
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert max_connections() == allowed
