"""Connecting with the wrong scheme, name or greeting: the error says within seconds what to write."""

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from listener.smtp import session as module
from listener.smtp.connection import SmtpConnection
from listener.smtp.outcome import Accepted
from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Phase, Scope
from listener.smtp.server import SmtpServer
from listener.smtp.session import ServerMemory, ehlo_name, tls_context
from listener.smtp.session_error import SessionError
from tests.support import repeats
from tests.support.client import (
    PATIENT,
    SECURED,
    SHORT,
    Security,
    connected,
    on_every_loop,
    send,
    server_of,
    trouble_of,
)
from tests.support.smtpd import Action, Smtpd, answer, close, drop, stall, wait


async def refused_by(smtpd: Smtpd, memory: ServerMemory | None = None, **changes: Any) -> SessionError:
    with pytest.raises(SessionError) as caught:
        await SmtpConnection.open(server_of(smtpd, **changes), tls_context(smtpd.ca_file), memory)
    return caught.value


@pytest.mark.parametrize("security", ["off", repeats("starttls")])
@on_every_loop
async def test_a_tls_port_spoken_to_in_clear_is_named_within_seconds(security: Security) -> None:
    async with Smtpd("tls", users={"herald": "s3cret"}) as smtpd:
        began = asyncio.get_running_loop().time()
        failure = await refused_by(smtpd, security=security, username="herald", password="s3cret")
        assert asyncio.get_running_loop().time() - began < 15
        assert (failure.phase, failure.verdict.scope) == (Phase.greeting, Scope.configuration)
        assert "speaks TLS" in failure.detail
        assert "write smtps:// instead of smtp://" in remedy_for(failure.phase, failure.verdict)
        await smtpd.until(lambda: not smtpd.sessions)


@pytest.mark.parametrize("security", ["off", "starttls"])
@on_every_loop
async def test_a_server_that_greets_late_is_waited_for(security: Security, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE_S", 0.1)
    async with Smtpd(security) as smtpd:
        # The probe is greeted at once: it learns that the server speaks no TLS while the first greeting is due.
        smtpd.script("greeting", wait(0.5), times=1)
        memory = ServerMemory()
        for _ in range(2):
            connection = (
                await SmtpConnection.open(server_of(smtpd), tls_context(), memory)
                if security == "off"
                else (await SmtpConnection.open(server_of(smtpd), tls_context(smtpd.ca_file), memory))
            )
            assert isinstance(await send(connection), Accepted)
            await connection.close()
        # The first connection was probed for TLS. Since the server has greeted in clear, no other one is.
        assert smtpd.connections == 3


async def test_the_address_that_worked_comes_first_and_one_that_failed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    tried: list[str] = []
    real = loop.sock_connect

    async def noted(sock: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        await real(sock, address)

    async def found(*_: Any, **__: Any) -> list[Any]:
        # All of 127.0.0.0/8 is this host.
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in ("127.0.0.2", "127.0.0.1")]

    async with Smtpd() as smtpd:
        port = smtpd.port
        monkeypatch.setattr(loop, "sock_connect", noted)
        monkeypatch.setattr(loop, "getaddrinfo", found)
        memory = ServerMemory()
        for expected in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1"]):
            tried.clear()
            (await SmtpConnection.open(server_of(smtpd), tls_context(), memory)).abort()
            assert tried == expected
        smtpd.script("greeting", answer("554 5.3.2 no"), times=1)
        with pytest.raises(SessionError):
            await SmtpConnection.open(server_of(smtpd), tls_context(), memory)
        tried.clear()
        (await SmtpConnection.open(server_of(smtpd), tls_context(), memory)).abort()
        assert tried == ["127.0.0.2", "127.0.0.1"]


@pytest.mark.parametrize("line", ["* OK IMAP4rev1 ready", "+OK POP3", "HTTP/1.1 400 Bad Request", "SSH-2.0-OpenSSH"])
@on_every_loop
async def test_a_port_of_another_protocol_is_named_as_such(line: str) -> None:
    async with Smtpd() as smtpd:
        smtpd.script("greeting", answer(line))
        failure = await trouble_of(smtpd)
        assert failure.detail == f"the server speaks no SMTP on this port: {line}"
        assert "correct the host or the port" in remedy_for(failure.phase, failure.verdict)


@on_every_loop
async def test_cancelling_during_the_silence_leaves_nothing_behind() -> None:
    async with Smtpd("off") as smtpd:
        smtpd.script("greeting", stall())
        opening = asyncio.create_task(SmtpConnection.open(server_of(smtpd), tls_context()))
        await smtpd.reached("greeting")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await smtpd.until(lambda: not smtpd.sessions)


@SECURED
@pytest.mark.parametrize(
    ("phase", "action"),
    [
        ("connect", close()),
        ("connect", drop()),
        ("greeting", stall()),
        ("greeting", close()),
        ("greeting", drop()),
        ("greeting", answer("hello")),
        ("greeting", answer("421 4.3.2 no", then="close")),
        ("ehlo", close()),
        ("ehlo", stall()),
    ],
)
@on_every_loop
async def test_no_error_names_a_port_that_is_none(
    security: Security, phase: str, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENCE_S", 0.1)
    async with Smtpd(security) as smtpd:
        smtpd.script(phase, action)
        failure = await trouble_of(smtpd, replace(SHORT, greeting=0.5) if action.stalls else PATIENT)
        assert "None" not in str(failure)
        assert failure.detail


@pytest.mark.parametrize("security", ["starttls", "tls"])
@on_every_loop
async def test_a_certificate_for_another_name(security: Security) -> None:
    async with Smtpd(security, names=("mail.example.org", "*.relay.example", "10.0.0.5"), users={"a": "b"}) as smtpd:
        failure = await refused_by(smtpd, username="a", password="b")
        assert (failure.phase, failure.verdict.scope) == (Phase.tls, Scope.configuration)
        assert "'localhost'" in failure.detail
        assert failure.detail.endswith("it is for mail.example.org, *.relay.example, 10.0.0.5")
        assert "?tls_name=" in remedy_for(failure.phase, failure.verdict)
        assert not smtpd.logins
        for name in ("mail.example.org", "MAIL.example.org.", "mx1.relay.example", "10.0.0.5"):
            async with connected(smtpd, tls_name=name) as connection:
                assert isinstance(await send(connection), Accepted)
        failure = await refused_by(smtpd, tls_name="other.example.org")
        assert "'other.example.org'" in failure.detail


@on_every_loop
async def test_the_name_that_is_verified_is_the_one_that_is_asked_for() -> None:
    asked = []
    async with Smtpd("tls", names=("mail.example.org",)) as smtpd:
        assert smtpd.context is not None
        smtpd.context.sni_callback = lambda connection, name, context: asked.append(name)
        async with connected(smtpd, tls_name="mail.example.org"):
            pass
    assert asked == ["mail.example.org"]


@pytest.mark.parametrize(
    "reply",
    [
        "500 5.5.1 Command unrecognized",
        "502 5.5.1 Command not implemented",
        "504 5.5.1 no",
        "550 Unknown command",
        "554 5.5.1 EHLO not supported",
    ],
)
@on_every_loop
async def test_a_server_without_ehlo_is_greeted_with_helo(reply: str) -> None:
    async with Smtpd(helo=True) as smtpd:
        smtpd.script("ehlo", answer(reply))
        async with connected(smtpd) as connection:
            assert connection.capabilities == {}
            assert isinstance(await send(connection), Accepted)
        assert smtpd.lines[:2] == ["EHLO client.test", "HELO client.test"]


@pytest.mark.parametrize(
    ("changes", "says", "remedy"),
    [
        ({"security": "starttls"}, "STARTTLS needs EHLO", "?starttls=off"),
        ({"username": "a", "password": "b"}, "a login needs EHLO", "take the user and the password out"),
    ],
)
@on_every_loop
async def test_without_ehlo_there_is_neither_tls_nor_a_login(changes: dict[str, Any], says: str, remedy: str) -> None:
    async with Smtpd(helo=True) as smtpd:
        smtpd.script("ehlo", answer("502 5.5.1 not implemented"))
        failure = await trouble_of(smtpd, **changes)
        assert (failure.phase, failure.verdict.scope) == (Phase.ehlo, Scope.configuration)
        assert failure.detail.startswith("502 5.5.1 not implemented; ")
        assert says in failure.detail
        assert remedy in remedy_for(failure.phase, failure.verdict)
        assert smtpd.seen["helo"] == 0


@pytest.mark.parametrize("reply", ["550 5.7.1 go away", "501 5.5.4 Invalid domain name", "421 4.3.2 closing"])
@on_every_loop
async def test_another_refusal_of_ehlo_is_final(reply: str) -> None:
    async with Smtpd(helo=True) as smtpd:
        smtpd.script("ehlo", answer(reply))
        assert (await trouble_of(smtpd)).phase is Phase.ehlo
        assert smtpd.seen["helo"] == 0


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("ehlo", "421 4.7.0 Try again later, closing connection. (EHLO) ab12-20020a17.35 - gsmtp"),
        ("greeting", "421-4.7.0 Try again later, closing connection. (EHLO)"),
        ("ehlo", "550 5.7.1 Helo command rejected: need fully-qualified hostname"),
        ("ehlo", "501 5.5.4 Invalid domain name"),
        ("ehlo", "504 5.5.2 <[10.0.0.5]>: Helo command rejected: need fully-qualified hostname"),
    ],
)
@on_every_loop
async def test_a_name_that_the_server_does_not_like_leads_to_the_key(phase: str, reply: str) -> None:
    async with Smtpd() as smtpd:
        smtpd.script(phase, answer(reply.replace("421-", "421 "), then="close"))
        failure = await trouble_of(smtpd)
        assert failure.phase is Phase(phase)
        assert "[smtp] ehlo_name" in remedy_for(failure.phase, failure.verdict)


def test_the_name_to_greet_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.socket, "gethostname", lambda: "laptop")
    server = SmtpServer("mail.example.org", 25, "off")
    assert ehlo_name(server, "10.0.0.5") == "[10.0.0.5]"
    assert ehlo_name(server, "fe80::1%eth0") == "[IPv6:fe80::1]"
    assert ehlo_name(replace(server, ehlo_name="a.example"), "10.0.0.5") == "a.example"
