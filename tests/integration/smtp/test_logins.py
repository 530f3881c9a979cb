"""Logging in: each mechanism, a refusal of the mechanism or of the password, and how seldom a wrong one is tried."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog

from listener.address import parse_address
from listener.errors import ConfigError
from listener.smtp.breaker import Breaker
from listener.smtp.logins import Logins
from listener.smtp.outcome import Accepted, NotSent, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Phase, Reply, Scope
from listener.smtp.sasl import is_banned, refused
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from listener.smtp.session import tls_context
from tests.support.client import KEY, MESSAGE, connected, on_every_loop, send, server_of, trouble_of, yes
from tests.support.smtpd import Smtpd, answer, wait

SENDER = parse_address("no-reply@example.org")
USERS = {"herald": "pa ss/wörd"}
LOGIN: dict[str, Any] = {"username": "herald", "password": "pa ss/wörd"}


def methods(smtpd: Smtpd) -> list[str]:
    return [line.split()[1] for line in smtpd.lines if line.startswith("AUTH")]


@pytest.mark.parametrize(
    ("auth", "options"),
    [
        ("PLAIN", {}),
        ("PLAIN", {"plain_asks": True}),
        ("LOGIN", {}),
        ("LOGIN", {"prompts": ("Login", "Kennwort")}),
        ("LOGIN", {"prompts": ("", "")}),
        ("CRAM-MD5", {}),
        ("cram-md5 login", {}),
        ("SCRAM-SHA-256 CRAM-MD5", {}),
        ("GSSAPI SCRAM-SHA-256 LOGIN", {}),
    ],
)
@on_every_loop
async def test_each_mechanism_logs_in_and_what_the_server_asks_for_is_answered(
    auth: str, options: dict[str, Any]
) -> None:
    async with Smtpd("tls", users=USERS, auth=auth, **options) as smtpd:
        async with connected(smtpd, **LOGIN) as connection:
            assert isinstance(await send(connection), Accepted)
        assert len(smtpd.logins) == 1
        # The password is never sent as the user's name.
        assert smtpd.logins[0][1:] == ("herald", "pa ss/wörd")


@pytest.mark.parametrize(
    "scram",
    [
        pytest.param(lambda message: message.replace("r=", "r=x"), id="a nonce of its own"),
        pytest.param(lambda message: message.replace("i=", "i=9999999999"), id="too many iterations"),
        pytest.param(lambda message: message.replace("v=", "v=AAAA"), id="no proof of the password"),
        pytest.param(lambda message: "e=other-error", id="an error"),
        pytest.param(lambda message: "\0é", id="no message"),
    ],
)
@on_every_loop
async def test_a_server_that_does_not_prove_itself_by_scram(scram: Callable[[str], str]) -> None:
    async with Smtpd("tls", users=USERS, auth="SCRAM-SHA-256", scram=scram) as smtpd:
        failure = await trouble_of(smtpd, **LOGIN)
        assert (failure.phase, failure.verdict.scope) == (Phase.auth, Scope.configuration)
        assert "AUTH SCRAM-SHA-256: 501" in failure.detail
        assert smtpd.logins == []


@on_every_loop
async def test_a_password_too_long_for_one_command_is_sent_in_the_next_line() -> None:
    password = "x" * 500
    async with (
        Smtpd("tls", users={"herald": password}) as smtpd,
        connected(smtpd, username="herald", password=password),
    ):
        assert [line for line in smtpd.lines if line.startswith("AUTH")] == ["AUTH PLAIN"]


@pytest.mark.parametrize(
    "reply",
    [
        "502 5.5.1 not implemented",
        "500 5.5.2 what?",
        "504 5.7.4 Unrecognized authentication type",
        "534 5.7.9 Authentication mechanism is too weak",
        "538 5.7.11 Encryption required for requested authentication mechanism",
        "535 5.7.8 Error: authentication failed: Invalid authentication mechanism",
        "535 5.7.8 Error: authentication failed: no mechanism available",
        "535 5.7.1 Authentication method not supported",
        "535 5.7.0 Authentication mechanism rejected",
        "535 5.7.1 PLAIN authentication is not supported",
        "535 5.7.1 AUTH PLAIN disabled, use LOGIN",
        "535 Plaintext authentication disallowed here",
        "550 5.7.4 Security features not supported",
        "501 5.5.4 Syntax error in parameters",
        "503 5.5.1 AUTH PLAIN not available here",
    ],
)
@on_every_loop
async def test_the_next_mechanism_is_tried_after_a_refusal_of_the_mechanism(reply: str) -> None:
    async with Smtpd("starttls", users=USERS, refuses={"PLAIN": reply}) as smtpd:
        async with connected(smtpd, **LOGIN) as connection:
            assert isinstance(await send(connection), Accepted)
        assert methods(smtpd) == ["PLAIN", "LOGIN"]


@pytest.mark.parametrize(
    "reply",
    [
        "535 5.7.8 authentication failed",
        "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
        "535 Authentication Credentials Invalid",
        "535 Incorrect authentication data",
        "535 5.7.3 Authentication unsuccessful",
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        "535 5.7.8 Username and Password not accepted. For more information, go to a page",
        "535 bad password (mechanism PLAIN is not the cause)",
        "534 5.7.9 Application-specific password required.",
        "534 5.7.14 Please log in via your web browser and then try again.",
        "501 5.7.0 Authentication failed",
        "525 5.7.13 User account disabled",
        "535 5.7.0 Invalid login or password",
        "535 Authentication not allowed on this server",
        "535 5.7.8 Error: authentication failed: authentication failure",
        "535 5.7.8 SASL PLAIN authentication failed: authentication failure",
        "535 5.7.0 LOGIN authentication rejected",
        "535 login authentication failed",
        "535 5.7.1 Credentials rejected by all mechanisms",
        "550 5.7.1 not you",
        "530 5.7.0 not here",
    ],
)
def test_a_wrong_password_is_no_matter_of_the_mechanism(reply: str) -> None:
    code, _, text = reply.partition(" ")
    assert refused(Reply.of(int(code), [text])) == "login"


@on_every_loop
async def test_a_wrong_password_is_tried_once() -> None:
    async with Smtpd("tls", users=USERS, auth="PLAIN LOGIN CRAM-MD5") as smtpd:
        failure = await trouble_of(smtpd, username="herald", password="wrong")
        assert (failure.phase, failure.verdict.scope, failure.pause) == (Phase.auth, Scope.configuration, 60.0)
        assert methods(smtpd) == ["PLAIN"]


@on_every_loop
async def test_each_refusal_of_a_mechanism_is_named() -> None:
    refuses = {"PLAIN": "502 5.5.1 no", "LOGIN": "504 5.5.4 never"}
    async with Smtpd("tls", users=USERS, auth="PLAIN LOGIN", refuses=refuses) as smtpd:
        failure = await trouble_of(smtpd, **LOGIN)
        assert failure.verdict.scope is Scope.configuration
        assert failure.detail == "AUTH PLAIN: 502 5.5.1 no, AUTH LOGIN: 504 5.5.4 never"


@on_every_loop
async def test_a_server_that_hangs_up_after_a_mechanism_gets_another_one_next_time() -> None:
    async with Smtpd("tls", users=USERS, refuses={"PLAIN": "421 4.7.0 x"}) as smtpd:
        smtpd.refuses["PLAIN"] = "502 5.5.1 no"
        memory_of = Logins()
        pool = SmtpPool(server_of(smtpd, **LOGIN), tls_context(smtpd.ca_file), 1, Breaker(), memory_of)
        smtpd.script("auth", answer("421 4.3.2 closing", then="close"), times=1)
        assert isinstance(await deliver(pool), NotSent)
        assert isinstance(await deliver(pool), Accepted)
        assert methods(smtpd) == ["PLAIN", "LOGIN", "LOGIN"]
        await pool.close()


@pytest.mark.parametrize("auth", ["PLAIN", "LOGIN", "CRAM-MD5"])
@on_every_loop
async def test_a_server_that_repeats_what_it_was_told_reveals_nothing(auth: str) -> None:
    secrets = [base64.b64encode(text).decode() for text in (b"\0herald\0wrong!", b"wrong!")]
    async with Smtpd("tls", users=USERS, auth=auth) as smtpd:
        smtpd.script("auth", answer(f"535-5.7.8 no: wrong! {secrets[0]}", f"535 5.7.8 {secrets[1]}"))
        failure = await trouble_of(smtpd, username="herald", password="wrong!")
        assert not any(secret in f"{failure} {failure.__cause__}" for secret in ("wrong!", *secrets))


@pytest.mark.parametrize("auth", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"])
@on_every_loop
async def test_a_server_that_repeats_the_last_line_reveals_nothing(auth: str) -> None:
    async with Smtpd("tls", users=USERS, auth=auth, echoes=True, plain_asks=True) as smtpd:
        failure = await trouble_of(smtpd, username="herald", password="wrong!", xoauth2=auth == "XOAUTH2")
        line = smtpd.lines[-1]
        assert line == "" or line not in str(failure)
        assert failure.detail.startswith("535 5.7.8")


async def deliver(pool: SmtpPool) -> SendOutcome:
    return await pool.send(Sending(SENDER, parse_address("jane@example.com"), MESSAGE, yes, KEY))


@on_every_loop
async def test_a_wrong_password_is_tried_once_by_all_that_wait_and_seldom_after_that() -> None:
    async with Smtpd("tls", users=USERS) as smtpd:
        breaker = Breaker()
        pool = SmtpPool(server_of(smtpd, username="herald", password="wrong"), tls_context(smtpd.ca_file), 8, breaker)
        smtpd.script("auth", replace(wait(0.1)))
        with structlog.testing.capture_logs() as logs:
            outcomes = await asyncio.gather(*(deliver(pool) for _ in range(20)))
        assert all(isinstance(outcome, NotSent) and "535" in outcome.detail for outcome in outcomes)
        assert len(smtpd.logins) == 1
        assert breaker.is_open
        assert breaker.reason == "auth: 535 5.7.8 authentication failed"
        assert [(log["event"], log["log_level"], log["pause_s"]) for log in logs] == [("breaker_paused", "error", 60.0)]
        for pause in (300.0, 900.0, 900.0):
            breaker.retry_now()
            await breaker.wait()
            with structlog.testing.capture_logs() as logs:
                await deliver(pool)
            assert logs[0]["pause_s"] == pause
        assert len(smtpd.logins) == 4
        assert smtpd.users is not None
        smtpd.users = {"herald": "wrong"}
        breaker.retry_now()
        await breaker.wait()
        assert isinstance(await deliver(pool), Accepted)
        assert not breaker.is_open
        await pool.close()


@on_every_loop
async def test_one_login_at_a_time_until_one_has_worked_and_then_all_at_once() -> None:
    gate = asyncio.Event()
    async with Smtpd("tls", users=USERS) as smtpd:
        pool = SmtpPool(server_of(smtpd, **LOGIN), tls_context(smtpd.ca_file), 4, Breaker())
        smtpd.script("auth", replace(wait(0), gate=gate), times=1)
        sending = [asyncio.create_task(deliver(pool)) for _ in range(4)]
        await smtpd.reached("auth")
        assert smtpd.connections == 1
        smtpd.script("dot", wait(0.3))
        gate.set()
        await asyncio.gather(*sending)
        assert smtpd.connections == 4
        await pool.close()


@on_every_loop
async def test_a_server_that_is_away_fails_all_that_wait_together() -> None:
    async with Smtpd("tls", users=USERS) as smtpd:
        pool = SmtpPool(server_of(smtpd, **LOGIN), tls_context(smtpd.ca_file), 8, Breaker())
        smtpd.script("ehlo", answer("421 4.3.2 closing", then="close"))
        await asyncio.gather(*(deliver(pool) for _ in range(8)))
        assert smtpd.connections == 1
        await pool.close()


@on_every_loop
async def test_one_connection_too_many_is_no_failure_of_those_that_wait_for_the_login() -> None:
    async with Smtpd("tls", users=USERS) as smtpd:
        pool = SmtpPool(server_of(smtpd, **LOGIN), tls_context(smtpd.ca_file), 4, Breaker())
        smtpd.script("greeting", answer("421 4.7.0 too many connections", then="close"), times=1)
        outcomes = await asyncio.gather(*(deliver(pool) for _ in range(4)))
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert pool._limit.now == 3
        pool._limit.close()
        await pool.close()


def test_a_ban_is_recognized() -> None:
    assert is_banned(Reply.of(454, ["4.7.0 Too many login attempts, please try again later."]))
    assert is_banned(Reply.of(421, ["4.7.0 Too many authentication failures"]))
    assert is_banned(Reply.of(432, ["4.7.12 A password transition is needed"]))
    assert not is_banned(Reply.of(454, ["4.7.0 Temporary authentication failure"]))


@on_every_loop
async def test_a_ban_is_respected() -> None:
    async with Smtpd("tls", users=USERS, refuses={"PLAIN": "454 4.7.0 Too many login attempts"}) as smtpd:
        failure = await trouble_of(smtpd, **LOGIN)
        assert (failure.verdict.scope, failure.pause) == (Scope.server, 60.0)
        smtpd.refuses["PLAIN"] = "454 4.7.0 Temporary authentication failure"
        assert (await trouble_of(smtpd, **LOGIN)).pause is None


@on_every_loop
async def test_the_password_is_read_at_each_login() -> None:
    async with Smtpd("tls", users=USERS) as smtpd:
        server = server_of(smtpd, username="herald", password="old")
        present: list[SmtpServer | Exception] = [server, replace(server, password="pa ss/wörd"), ConfigError("gone")]

        def read() -> SmtpServer:
            value = present.pop(0)
            if isinstance(value, Exception):
                raise value
            return value

        pool = SmtpPool(server, tls_context(smtpd.ca_file), 1, Breaker(), Logins(read=read))
        assert isinstance(await deliver(pool), NotSent)
        pool._breaker.retry_now()
        await pool._breaker.wait()
        assert isinstance(await deliver(pool), Accepted)
        await pool.close()
        outcome = await deliver(pool)
        assert isinstance(outcome, NotSent)
        assert (outcome.detail, outcome.verdict.scope) == ("gone", Scope.configuration)


@pytest.mark.parametrize("change", [{"host": "mail.example.org"}, {"port": 1}, {"username": None, "password": None}])
@on_every_loop
async def test_the_password_for_another_server_waits_for_a_reload(change: dict[str, Any]) -> None:
    async with Smtpd("tls", users=USERS) as smtpd:
        server = server_of(smtpd, **LOGIN)
        other = replace(server, **{"password": "another", **change})
        pool = SmtpPool(server, tls_context(smtpd.ca_file), 1, Breaker(), Logins(read=lambda: other))
        assert isinstance(await deliver(pool), Accepted)
        assert [login[1:] for login in smtpd.logins] == [("herald", "pa ss/wörd")]
        await pool.close()
