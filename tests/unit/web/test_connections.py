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

    limiter = ConnectionLimit(limit)
    app = web.Application(middlewares=[limiter.middleware])
    app.add_routes([web.get("/slow", slow), web.get("/livez", livez)])
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


async def test_beyond_the_limit_a_connection_is_refused() -> None:
    async with serving() as (runner, address, ready):
        slow = [asyncio.create_task(ask(address, "/slow")) for _ in range(LIMIT)]
        async with asyncio.timeout(30):
            while len(web.AppRunner.server.fget(runner).connections) < LIMIT:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
        with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
            await ask(address, "/livez")
        ready.set()
        assert set(await asyncio.gather(*slow)) == {"slow"}
        assert await ask(address, "/livez") == "alive"


@pytest.mark.parametrize(
    ("descriptors", "allowed"),
    [(1024, 200), (400, 100), (64, 16), (4, 2), (1_000_000, 200), (resource.RLIM_INFINITY, 200)],
)
def test_the_limit_follows_that_of_descriptors(monkeypatch: pytest.MonkeyPatch, descriptors: int, allowed: int) -> None:
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert max_connections() == allowed
