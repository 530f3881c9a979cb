"""The port: one that was configured must be free, and the default gives way."""

import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from listener.config.settings import Settings
from listener.errors import ConfigError, PgheraldError
from listener.web import server
from listener.web.server import HttpServer

ANYTHING: Any = SimpleNamespace()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    take = SimpleNamespace(
        info=lambda event, **fields: events.append((event, fields)),
        warning=lambda event, **fields: events.append((event, fields)),
    )
    monkeypatch.setattr(server, "log", take)
    return events


def http_server(monkeypatch: pytest.MonkeyPatch, listen: str | None) -> HttpServer:
    if listen is not None:
        monkeypatch.setenv("PGHERALD_HTTP_LISTEN", listen)
    return HttpServer(settings := Settings(), lambda: settings, ANYTHING, ANYTHING, ANYTHING)


async def test_it_answers_while_the_block_runs(
    monkeypatch: pytest.MonkeyPatch, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    http = http_server(monkeypatch, "127.0.0.1:0")
    async with http.served():
        assert logged == []
        http.log_address()
        http.log_address()
        [(event, fields)] = logged
        assert event == "http_listening"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{fields['url']}/livez") as response:
                assert (response.status, response.headers["Server"]) == (200, "pgherald")
            async with session.get(f"{fields['url']}/livez", headers={"Host": "evil.example"}) as response:
                assert response.status == 421
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(fields["url"].rpartition(":")[2])))


async def test_a_configured_port_must_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PgheraldError, match=f"listen: {address} is in use; choose another port") as caught:
            async with http_server(monkeypatch, address).served():
                pytest.fail("it serves")
        assert not isinstance(caught.value, ConfigError), "another start may find it free"


async def test_the_default_port_gives_way(
    monkeypatch: pytest.MonkeyPatch, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    http = http_server(monkeypatch, None)
    listen = http._listen

    async def in_use(host: str, port: int) -> None:
        if port:
            raise OSError("in use")
        await listen(host, port)

    monkeypatch.setattr(http, "_listen", in_use)
    async with http.served():
        http.log_address()
    assert logged[0][0] == "http_listening"


async def test_without_any_port_the_daemon_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    http = http_server(monkeypatch, None)

    async def refuse(host: str, port: int) -> None:
        raise OSError("no port")

    monkeypatch.setattr(http, "_listen", refuse)
    async with http.served():
        http.log_address()
    assert logged == [("http_unavailable", {"error": "no port"})]
