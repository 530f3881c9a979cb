"""The proxy does to connections what it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.support import PATIENCE
from tests.support.proxy import Proxy

_MOMENT = 0.1
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class End:
    """The server's end of a connection: where it comes from, and how it ended, once it has."""

    port: int
    how: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Proxy, Callable[[], Awaitable[Streams]], list[End]]]:
    """A proxy before a server that answers in capitals; how to connect; the server's ends."""
    ends: list[End] = []

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = End(writer.get_extra_info("peername")[1])
        ends.append(end)
        try:
            while data := await reader.read(100):
                writer.write(data.upper())
            end.how = "closed"
        except ConnectionError:
            end.how = "reset"
        writer.transport.abort()
        end.ended.set()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    mine: list[Streams] = []
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:

        async def connect() -> Streams:
            mine.append(await asyncio.open_connection("127.0.0.1", proxy.port))
            return mine[-1]

        try:
            yield proxy, connect, ends
        finally:
            for _, writer in mine:
                writer.transport.abort()
            server.close()
    async with asyncio.timeout(PATIENCE):
        for end in ends:
            await end.ended.wait()


async def says(streams: Streams, word: bytes) -> bytes:
    streams[1].write(word)
    async with asyncio.timeout(PATIENCE):
        return await streams[0].read(100)


async def in_time(event: asyncio.Event, limit: float = PATIENCE) -> bool:
    try:
        async with asyncio.timeout(limit):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def test_it_forwards_and_knows_its_ports() -> None:
    async with proxied() as (proxy, connect, ends):
        assert await says(await connect(), b"a") == b"A"
        assert proxy.ports == {ends[0].port}


async def test_an_end_that_closes_closes_the_other() -> None:
    async with proxied() as (_, connect, ends):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        streams[1].close()
        assert await in_time(ends[0].ended)
        assert ends[0].how == "closed"


async def test_delay_counts_both_ways() -> None:
    async with proxied() as (proxy, connect, _):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        proxy.delay = 0.1
        begun = time.monotonic()
        assert await says(streams, b"b") == b"B"
        assert time.monotonic() - begun >= 0.19
        proxy.delay, proxy.spared = 60.0, proxy.ports
        assert await says(streams, b"c") == b"C"


async def test_a_cut_says_nothing_and_loses_nothing() -> None:
    async with proxied() as (proxy, connect, ends):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        proxy.cut()
        streams[1].write(b"b")
        late = await connect()
        late[1].write(b"c")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(_MOMENT):
                await streams[0].read(100)
        assert len(ends) == 1
        proxy.heal()
        async with asyncio.timeout(PATIENCE):
            assert await streams[0].read(100) == b"B"
            assert await late[0].read(100) == b"C"


async def test_a_cut_hides_that_an_end_has_closed() -> None:
    async with proxied() as (proxy, connect, ends):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        proxy.cut()
        streams[1].close()
        assert not await in_time(ends[0].ended, _MOMENT)
        proxy.heal()
        assert await in_time(ends[0].ended)
        assert ends[0].how == "closed"


async def test_a_reset_is_seen_at_both_ends() -> None:
    async with proxied() as (proxy, connect, ends):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await streams[0].read(1)
        assert await in_time(ends[0].ended)
        assert ends[0].how == "reset"


async def test_a_forsaken_end_knows_nothing_until_the_proxy_heals() -> None:
    async with proxied() as (proxy, connect, ends):
        streams = await connect()
        assert await says(streams, b"a") == b"A"
        proxy.cut()
        proxy.forsake()
        with pytest.raises(ConnectionResetError):
            await streams[0].read(1)
        assert not await in_time(ends[0].ended, _MOMENT)
        proxy.heal()
        assert await in_time(ends[0].ended)
        assert ends[0].how == "reset"


async def test_no_target_is_a_reset() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.transport.abort()
