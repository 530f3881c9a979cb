"""The stream of sections: only those that changed, and a word when the database does not answer."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from listener.web import stream
from listener.web.auth import AdminAuth
from listener.web.render import SECTIONS, Renderer
from listener.web.stream import OverviewStream
from tests.support.overview import FixedOverviews, overview

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def overviews() -> FixedOverviews:
    return FixedOverviews(overview())


@pytest.fixture
async def streams(overviews: FixedOverviews, monkeypatch: pytest.MonkeyPatch) -> OverviewStream:
    monkeypatch.setattr(stream, "REFRESH_INTERVAL_S", 0.01)
    return OverviewStream(overviews, Renderer(), AdminAuth(lambda: None))  # type: ignore[arg-type]


@pytest.fixture
async def client(streams: OverviewStream) -> AsyncIterator[Client]:
    app = web.Application()
    app.add_routes(streams.routes())
    async with TestClient(TestServer(app)) as client:
        yield client
        streams.closing.set()


async def frame(response: asyncio.StreamReader) -> list[str]:
    return (await response.readuntil(b"\n\n")).decode().rstrip("\n").split("\n")


async def test_changed_sections_are_sent(client: Client, overviews: FixedOverviews, streams: OverviewStream) -> None:
    async with client.get("/events") as response:
        name, data = await frame(response.content)  # type: ignore[arg-type]
        assert name == "event: sections"
        assert set(json.loads(data.removeprefix("data: "))) == set(SECTIONS)
        overviews.current = overview(available=3)
        _, data = await frame(response.content)  # type: ignore[arg-type]
        assert set(json.loads(data.removeprefix("data: "))) == {"tiles", "rules"}
        overviews.current, overviews.error = None, "connection refused"
        name, data = await frame(response.content)  # type: ignore[arg-type]
        assert name == "event: unavailable"
        assert json.loads(data.removeprefix("data: ")).startswith("The database does not answer: connection refused.")
        streams.closing.set()
        await asyncio.wait_for(response.content.read(), 10)


async def test_an_idle_stream_is_kept_alive(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_KEEP_ALIVE_INTERVAL_S", 0.01)
    async with client.get("/events") as response:
        await frame(response.content)  # type: ignore[arg-type]
        assert await frame(response.content) == [":"]  # type: ignore[arg-type]


async def test_too_many_readers_are_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_MAX_READERS", 1)
    async with client.get("/events") as first:
        assert first.status == 200
        async with client.get("/events") as second:
            assert second.status == 503
            assert "close one" in await second.text()
