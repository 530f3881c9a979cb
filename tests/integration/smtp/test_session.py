"""Opening a session: what may go wrong before there is one, and what must never be said in clear."""

import asyncio
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from listener.errors import ConfigError
from listener.smtp.connection import SmtpConnection
from listener.smtp.outcome import Accepted
from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Phase, Scope
from listener.smtp.server import SmtpServer
from listener.smtp.session import SessionError, tls_context
from tests.support.client import (
    PATIENT,
    SHORT,
    Security,
    connect,
    connected,
    on_every_loop,
    send,
    server_of,
    trouble_of,
)
from tests.support.smtpd import Action, Smtpd, answer, close, drop, stall, wait


@pytest.mark.parametrize(
    ("security", "phase", "action", "at", "scope"),
    [
        ("off", "connect", close(), "greeting", "server"),
        ("tls", "connect", drop(), "greeting", "server"),
        ("off", "greeting", stall(), "greeting", "server"),
        ("tls", "greeting", stall(), "greeting", "server"),
        ("off", "greeting", answer("554 5.7.1 go away"), "greeting", "server"),
        ("off", "greeting", answer("421 4.7.0 too many connections", then="close"), "greeting", "connections"),
        ("off", "greeting", answer("hello"), "greeting", "server"),
        ("off", "ehlo", answer("502 5.5.1 what?"), "ehlo", "server"),
        ("off", "ehlo", answer("421 4.3.2 closing", then="close"), "ehlo", "server"),
        ("tls", "ehlo", stall(), "ehlo", "server"),
        ("starttls", "ehlo", drop(), "ehlo", "server"),
        ("starttls", "tls", answer("454 4.7.0 not now"), "tls", "server"),
        ("starttls", "tls", answer("220 go ahead", "220 220 and more", then="close"), "tls", "server"),
        ("starttls", "tls", stall(), "tls", "server"),
        ("starttls", "tls", drop(), "tls", "server"),
        ("tls", "auth", answer("535 5.7.8 no"), "auth", "configuration"),
        ("starttls", "auth", answer("534 5.7.9 too weak"), "auth", "configuration"),
        ("tls", "auth", answer("530 5.7.0 no"), "auth", "configuration"),
        ("tls", "auth", answer("454 4.7.0 not now"), "auth", "server"),
        ("tls", "auth", answer("421 4.3.2 closing", then="close"), "auth", "server"),
        ("tls", "auth", stall(), "auth", "server"),
        ("starttls", "auth", close(), "auth", "server"),
    ],
)
@on_every_loop
async def test_no_session(security: Security, phase: str, action: Action, at: str, scope: str) -> None:
    users = {"user": "secret"} if phase == "auth" else None
    login = {"username": "user", "password": "secret"} if users else {}
    async with Smtpd(security, users=users) as smtpd:
        smtpd.script(phase, action)
        failure = await trouble_of(smtpd, replace(SHORT, greeting=0.5) if action.stalls else PATIENT, **login)
        assert (failure.phase, failure.verdict.scope) == (Phase(at), Scope(scope))
        assert failure.detail
        assert "secret" not in str(failure)
        await smtpd.until(lambda: not smtpd.sessions)
        assert smtpd.mails == 0


@on_every_loop
async def test_nobody_listens() -> None:
    async with Smtpd() as smtpd:
        await smtpd.refuse_connections()
        failure = await trouble_of(smtpd)
        assert (failure.phase, failure.verdict.scope) == (Phase.connect, Scope.server)
        assert failure.detail.endswith(f":{smtpd.port}: connection refused")
        await smtpd.listen()
        async with connected(smtpd) as connection:
            assert isinstance(await send(connection), Accepted)


@on_every_loop
async def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async with Smtpd() as smtpd:
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.BaseEventLoop):
            monkeypatch.setattr(loop, "sock_connect", never)
            failure = await trouble_of(smtpd, replace(SHORT, connect=0.1))
            assert (failure.phase, failure.verdict.scope) == (Phase.connect, Scope.server)
            assert "no answer" in failure.detail


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
@on_every_loop
async def test_a_host_that_does_not_exist(host: str) -> None:
    async with Smtpd() as smtpd:
        failure = await trouble_of(smtpd, host=host)
        assert failure.phase is Phase.connect
        assert failure.verdict.scope in (Scope.server, Scope.configuration)


@on_every_loop
async def test_without_starttls_nothing_is_said_in_clear() -> None:
    async with Smtpd("off", users={"user": "secret"}) as smtpd:
        failure = await trouble_of(smtpd, security="starttls", username="user", password="secret")
        assert (failure.phase, failure.verdict.scope) == (Phase.tls, Scope.configuration)
        assert "STARTTLS" in failure.detail
        assert "smtps://" in remedy_for(failure.phase, failure.verdict)
        assert smtpd.in_clear == []
        assert smtpd.mails == 0


@on_every_loop
async def test_no_password_is_sent_in_clear() -> None:
    async with Smtpd("off", users={"user": "secret"}) as smtpd:
        failure = await trouble_of(smtpd, username="user", password="secret")
        assert (failure.phase, failure.verdict.scope) == (Phase.auth, Scope.configuration)
        assert "?starttls=required" in remedy_for(failure.phase, failure.verdict)
        assert smtpd.in_clear == []


@on_every_loop
async def test_what_was_slipped_in_before_tls_is_thrown_away() -> None:
    async with Smtpd("starttls", extensions=("SIZE 5",)) as smtpd:
        smtpd.script("tls", answer("220 2.0.0 go ahead", "250-evil.test", "250-PIPELINING", "250 SIZE 1"))
        async with connected(smtpd) as connection:
            assert connection.capabilities == {"size": "5"}
            assert isinstance(await send(connection, message=b"a\r\n"), Accepted)


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("auth", ["PLAIN LOGIN CRAM-MD5", "LOGIN CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"])
@on_every_loop
async def test_logging_in(security: Security, auth: str) -> None:
    async with Smtpd(security, users={"üser": "sécret"}, auth=auth) as smtpd:
        login: dict[str, Any] = {"username": "üser", "password": "sécret", "xoauth2": auth == "XOAUTH2"}
        async with connected(smtpd, **login) as connection:
            assert isinstance(await send(connection), Accepted)
        assert [line.split()[1] for line in smtpd.lines if line.startswith("AUTH")] == [auth.split()[0]]
        assert smtpd.in_clear == []
        failure = await trouble_of(smtpd, **{**login, "password": "wrong"})
        assert (failure.phase, failure.verdict.scope) == (Phase.auth, Scope.configuration)
        assert "535" in failure.detail


@pytest.mark.parametrize(("auth", "xoauth2"), [("SCRAM-SHA-1 GSSAPI", False), ("PLAIN LOGIN", True), ("", False)])
@on_every_loop
async def test_no_way_to_log_in(auth: str, xoauth2: bool) -> None:
    async with Smtpd("tls", users={"user": "secret"}, auth=auth) as smtpd:
        failure = await trouble_of(smtpd, username="user", password="secret", xoauth2=xoauth2)
        assert (failure.phase, failure.verdict.scope) == (Phase.auth, Scope.configuration)
        assert ", ".join(auth.split()) in failure.detail
        assert ("XOAUTH2" if xoauth2 else "PLAIN, LOGIN, SCRAM-SHA-256 or CRAM-MD5") in failure.detail
        assert not any(line.startswith("AUTH") for line in smtpd.lines)


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("fault", ["unknown authority", "another name"])
@on_every_loop
async def test_a_certificate_that_proves_nothing(security: Security, fault: str, tmp_path: Path) -> None:
    names = ("mail.example.org",) if fault == "another name" else ("localhost",)
    async with Smtpd(security, names=names, users={"user": "secret"}) as smtpd:
        authority = smtpd.ca_file
        if fault == "unknown authority":
            authority = tmp_path / "other.pem"
            trustme.CA().cert_pem.write_to_path(str(authority))
        with pytest.raises(SessionError) as caught:
            await SmtpConnection.open(server_of(smtpd, username="user", password="secret"), tls_context(authority))
        assert (caught.value.phase, caught.value.verdict.scope) == (Phase.tls, Scope.configuration)
        assert "certificate" in caught.value.detail.lower()
        assert smtpd.mails == 0
        assert not any(line.startswith("AUTH") for line in smtpd.lines)


@on_every_loop
async def test_a_port_without_tls_is_named_as_such() -> None:
    async with Smtpd("off") as smtpd:
        with pytest.raises(SessionError) as caught:
            await SmtpConnection.open(server_of(smtpd, security="tls"), tls_context())
        assert (caught.value.phase, caught.value.verdict.scope) == (Phase.tls, Scope.configuration)
        assert caught.value.detail == "the server speaks no TLS on this port"
        assert "smtp:// instead of smtps://" in remedy_for(caught.value.phase, caught.value.verdict)


@pytest.mark.parametrize("security", ["starttls", "tls"])
@on_every_loop
async def test_tls_before_1_2_is_refused(security: Security) -> None:
    async with Smtpd(security) as smtpd:
        assert smtpd.context is not None
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            smtpd.context.maximum_version = ssl.TLSVersion.TLSv1_1
        failure = await trouble_of(smtpd)
        assert (failure.phase, failure.verdict.scope) == (Phase.tls, Scope.server)


def test_the_tls_context_verifies_and_names_a_file_it_cannot_read(tmp_path: Path) -> None:
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        tls_context(tmp_path / "missing.pem")
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ConfigError, match=r"empty\.pem"):
        tls_context(tmp_path / "empty.pem")


@pytest.mark.parametrize(
    "name", ["", "a b", "a\r\nQUIT", "-a", "a\0", "[1.2.3.4", "é.example", "a" * 256, "a.example\n"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="ehlo_name"):
        SmtpServer("localhost", 25, "off", ehlo_name=name)


@pytest.mark.parametrize("name", ["mail.example.org", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "x"])
def test_a_name_that_is_one(name: str) -> None:
    SmtpServer("localhost", 25, "off", ehlo_name=name)


@pytest.mark.parametrize(
    ("host", "said"),
    [("mail.example.org", "mail.example.org"), ("laptop", "[127.0.0.1]"), ("a_b.example", "[127.0.0.1]")],
)
@on_every_loop
async def test_the_name_said_without_one_configured(host: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    async with Smtpd() as smtpd, connected(smtpd, ehlo_name=None):
        assert smtpd.lines == [f"EHLO {said}"]


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(SmtpServer("localhost", 25, "tls", "user", "secret"))


@on_every_loop
async def test_cancelling_while_it_opens_leaves_nothing_behind() -> None:
    async with Smtpd("tls") as smtpd:
        smtpd.script("ehlo", stall())
        opening = asyncio.create_task(connect(smtpd))
        await smtpd.reached("ehlo")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await smtpd.until(lambda: not smtpd.sessions)


@on_every_loop
async def test_each_step_has_a_deadline_of_its_own() -> None:
    async with Smtpd() as smtpd:
        smtpd.script("ehlo", wait(1.5))
        async with connected(smtpd, replace(PATIENT, greeting=1.0)) as connection:
            assert connection.usable
        failure = await trouble_of(smtpd, replace(PATIENT, command=0.1))
        assert failure.phase is Phase.ehlo
