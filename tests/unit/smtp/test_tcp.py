"""TCP: a dead address hardly delays the others, and an error names the place and the reason."""

import asyncio
import socket
from typing import Any

import pytest

from listener.smtp.tcp import AddressOrder, connect

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


async def test_a_dead_address_costs_a_quarter_of_a_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    tried = []
    real = loop.sock_connect

    async def dead(sock: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        if address[0] == "192.0.2.1":
            await asyncio.Event().wait()
        await real(sock, address)

    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        port = int(server.getsockname()[1])
        monkeypatch.setattr(loop, "getaddrinfo", addresses(("192.0.2.1", port), (LOOPBACK, port)))
        monkeypatch.setattr(loop, "sock_connect", dead)
        order = AddressOrder()
        began = loop.time()
        (await connect("mail.example.org", port, 40, order)).close()
        assert 0.2 < loop.time() - began < 5
        assert tried == ["192.0.2.1", LOOPBACK]
        order.worked(LOOPBACK)
        tried.clear()
        (await connect("mail.example.org", port, 40, order)).close()
        assert tried == [LOOPBACK]
        # An address that accepts a connection and then fails comes last.
        order.failed(LOOPBACK)
        tried.clear()
        (await connect("mail.example.org", port, 40, order)).close()
        assert tried == ["192.0.2.1", LOOPBACK]


async def test_of_two_that_answer_at_once_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    gate = asyncio.Event()
    opened: list[socket.socket] = []

    async def together(sock: socket.socket, address: object) -> None:
        opened.append(sock)
        if len(opened) == 2:
            gate.set()
        await gate.wait()

    monkeypatch.setattr(loop, "getaddrinfo", addresses(("192.0.2.1", 25), ("192.0.2.2", 25)))
    monkeypatch.setattr(loop, "sock_connect", together)
    with await connect("mail.example.org", 25, 40) as sock:
        assert [each.fileno() == -1 for each in opened].count(True) == 1
        assert sock.fileno() != -1


async def test_cancelling_closes_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    opened: list[socket.socket] = []

    async def never(sock: socket.socket, address: object) -> None:
        opened.append(sock)
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "getaddrinfo", addresses(("192.0.2.1", 25), ("192.0.2.2", 25)))
    monkeypatch.setattr(loop, "sock_connect", never)
    connecting = asyncio.create_task(connect("mail.example.org", 25, 40))
    async with asyncio.timeout(40):
        while len(opened) < 2:
            await asyncio.sleep(0.01)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert all(sock.fileno() == -1 for sock in opened)


def test_the_families_alternate() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(family, 1, 6, "", (name, 25)) for family, name in [(six, "a"), (six, "b"), (six, "c"), (four, "d")]]
    order = AddressOrder()
    assert [each[4][0] for each in order.sort(found)] == ["a", "d", "b", "c"]
    order.worked("c")
    assert [each[4][0] for each in order.sort(found)] == ["c", "a", "d", "b"]
    assert order.sort([]) == []


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


def test_of_several_addresses_that_fail_each_gets_its_turn() -> None:
    found = [(socket.AF_INET, 1, 6, "", (name, 25)) for name in ("a", "b", "c")]
    order = AddressOrder()
    tried = []
    for _ in range(6):
        tried.append(order.sort(found)[0][4][0])
        order.failed(tried[-1])
    assert tried == ["a", "b", "c", "a", "b", "c"]
    order.worked("b")
    assert [each[4][0] for each in order.sort(found)] == ["b", "a", "c"]
