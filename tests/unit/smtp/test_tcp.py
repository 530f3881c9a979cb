"""TCP: every address of a host gets its share of the time, and an error names the place and the reason."""

import asyncio
import socket
from typing import Any

import pytest

from listener.smtp.tcp import connect

LOOPBACK = "127.0.0.1"


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def addresses(*given: tuple[str, int]) -> Any:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in given]

    return getaddrinfo


async def test_a_refused_connection_names_address_and_port() -> None:
    port = closed_port()
    with pytest.raises(OSError, match=rf"^127\.0\.0\.1:{port}: connection refused$"):
        await connect(LOOPBACK, port, 5)


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        port = int(server.getsockname()[1])
        found = addresses((LOOPBACK, closed_port()), (LOOPBACK, port))
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        with await connect("mail.example.org", port, 5) as sock:
            assert sock.getpeername() == (LOOPBACK, port)


async def test_an_address_that_does_not_answer_gets_only_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", addresses(("192.0.2.1", 25), ("192.0.2.2", 25)))
    monkeypatch.setattr(loop, "sock_connect", never)
    began = loop.time()
    with pytest.raises(OSError, match=r"^192\.0\.2\.2:25: no answer in time$"):
        await connect("mail.example.org", 25, 0.2)
    assert 0.15 < loop.time() - began < 5


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=r"^nowhere\.invalid: cannot resolve the name: Name or service not known$"):
        await connect("nowhere.invalid", 25, 5)


async def test_an_ipv6_address_is_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connect call failed ('::1', 25, 0, 0)")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", addresses(("::1", 25)))
    monkeypatch.setattr(loop, "sock_connect", refuse)
    with pytest.raises(OSError, match=r"^\[::1\]:25: connection refused$"):
        await connect("localhost", 25, 5)
