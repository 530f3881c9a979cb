"""The bytes of a connection, without a network: replies in pieces, what has left, and who may speak when."""

import asyncio
import ssl
from typing import Any

import pytest

from listener.smtp.protocol import ConnectionLost, SmtpProtocol


class FakeTransport(asyncio.Transport):
    """Records what is written. `closing` is set by a test or by `abort()`."""

    def __init__(self, *, secured: bool = False) -> None:
        super().__init__({"sslcontext": ssl.create_default_context() if secured else None})
        self.writes: list[bytes] = []
        self.limits: tuple[int | None, int | None] | None = None
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


def open_protocol(*, secured: bool = False) -> tuple[SmtpProtocol, FakeTransport]:
    transport = FakeTransport(secured=secured)
    return SmtpProtocol(transport, asyncio.get_running_loop()), transport


@pytest.mark.parametrize(
    "pieces", [[b"250-a\r\n250 b\r\n"], [b"250", b"-a\r", b"\n25", b"0 b\r\n"], [b"250-a\n250 b\n"]]
)
async def test_a_reply_may_come_in_any_pieces(pieces: list[bytes]) -> None:
    protocol, _ = open_protocol()
    protocol.send(b"NOOP\r\n")
    for piece in pieces:
        protocol.data_received(piece)
    reply = await protocol.reply(1)
    assert (reply.code, reply.text) == (250, "a b")


async def test_replies_are_returned_in_order_also_after_the_connection_is_lost() -> None:
    protocol, _ = open_protocol()
    protocol.send(b"MAIL\r\nRCPT\r\n", replies=2)
    protocol.data_received(b"250 one\r\n550 two\r\n")
    protocol.connection_lost(None)
    assert [(await protocol.reply(1)).text for _ in range(2)] == ["one", "two"]
    with pytest.raises(ConnectionLost, match="the server closed the connection"):
        await protocol.reply(1)


@pytest.mark.parametrize("data", [b"421 closing\r\n", b"250"])
async def test_a_server_that_speaks_unasked_is_given_up(data: bytes) -> None:
    protocol, transport = open_protocol()
    protocol.data_received(data)
    assert protocol.lost is not None
    assert "out of turn" in protocol.lost
    assert transport.closing


@pytest.mark.parametrize("data", [b"2" * 5000, b"250-x\r\n" * 200])
async def test_a_reply_without_an_end_is_given_up(data: bytes) -> None:
    protocol, transport = open_protocol()
    protocol.send(b"EHLO x\r\n")
    protocol.data_received(data)
    assert protocol.lost == "the server's reply has no end"
    assert transport.closing


async def test_no_reply_in_time_cuts_the_connection() -> None:
    protocol, transport = open_protocol()
    protocol.send(b"NOOP\r\n")
    with pytest.raises(ConnectionLost, match=r"no reply within 0\.01 s"):
        await protocol.reply(0.01)
    assert transport.closing


@pytest.mark.parametrize("shielded", [False, True])
async def test_cancelling_ends_the_wait_unless_it_is_shielded(shielded: bool) -> None:
    protocol, _ = open_protocol()
    protocol.send(b"body")
    waiting = asyncio.create_task(protocol.reply(60, shielded=shielded))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert waiting.done() is not shielded
    protocol.data_received(b"250 ok\r\n")
    if shielded:
        assert (await waiting).code == 250
    else:
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("secured", [False, True])
async def test_it_is_known_whether_the_last_byte_has_left(secured: bool) -> None:
    protocol, transport = open_protocol(secured=secured)
    assert transport.limits == (1 if secured else 0, 0)
    protocol.send(b"body")
    assert not protocol.unsent
    protocol.pause_writing()
    assert protocol.unsent
    protocol.resume_writing()
    assert not protocol.unsent
    protocol.pause_writing()
    protocol.fail("cut")
    protocol.resume_writing()
    assert protocol.unsent, "it keeps its value after the connection is lost"


async def test_nothing_is_written_on_a_lost_connection() -> None:
    protocol, transport = open_protocol()
    protocol.fail("first reason")
    protocol.fail("second reason")
    protocol.send(b"body")
    assert (transport.writes, protocol.unsent, protocol.lost) == ([], True, "first reason")


@pytest.mark.parametrize(("secured", "writes"), [(False, 1), (True, 2)])
async def test_under_tls_the_dot_of_a_long_message_has_a_write_of_its_own(secured: bool, writes: int) -> None:
    protocol, transport = open_protocol(secured=secured)
    data = b"x" * 20_000 + b"\r\n.\r\n"
    protocol.send(data)
    assert len(transport.writes) == writes
    assert b"".join(transport.writes) == data
    assert writes == 1 or transport.writes[1] == b".\r\n"


async def test_a_transport_that_is_closing_is_not_taken_over() -> None:
    transport = FakeTransport()
    transport.closing = True
    protocol = SmtpProtocol(transport, asyncio.get_running_loop())
    assert protocol.lost == "the server closed the connection"
    assert transport.limits is None
