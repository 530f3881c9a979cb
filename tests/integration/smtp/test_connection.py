"""Hand-overs against a server that misbehaves at every point, on both loops, in clear and under TLS."""

import asyncio
import socket
from dataclasses import replace

import pytest

from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.replies import Phase, Scope
from tests.support.client import (
    KEY,
    MESSAGE,
    PATIENT,
    PIPELINED,
    SECURED,
    SHORT,
    Security,
    connected,
    eventually,
    let_bytes_arrive,
    on_every_loop,
    send,
)
from tests.support.smtpd import EXTENSIONS, Action, Smtpd, answer, close, drop, duplicate, stall, swallow, wait_for

# --- what goes well ---------------------------------------------------------------------------------------------


@SECURED
@PIPELINED
@on_every_loop
async def test_messages_are_handed_over(security: Security, extensions: tuple[str, ...]) -> None:
    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd) as connection:
        assert (connection.used, connection.usable) == (0, True)
        for number in (1, 2, 3):
            outcome = await send(connection, recipient=f"user{number}@example.com")
            assert isinstance(outcome, Accepted)
            assert str(outcome.reply) == f"250 2.0.0 Ok: queued as {number}"
        assert (connection.used, connection.usable) == (3, True)
        assert [message.recipient for message in smtpd.messages] == [f"user{n}@example.com" for n in (1, 2, 3)]
        assert {message.sender for message in smtpd.messages} == {"no-reply@example.org"}
        assert {message.data for message in smtpd.messages} == {MESSAGE}
        assert {message.raw for message in smtpd.messages} == {b"Subject: x\r\n\r\n..hello\r\n...\r\n..\r\nbye\r\n"}
        assert smtpd.messages[0].mail_parameters == (f"SIZE={len(MESSAGE)}", "RET=HDRS", f"ENVID={KEY}")
        assert smtpd.messages[0].rcpt_parameters == ("NOTIFY=FAILURE",)
        assert smtpd.early == []
        assert bool(smtpd.pipelined) == ("PIPELINING" in extensions)
        assert "EHLO client.test" in smtpd.lines
        await connection.close()
        assert not connection.usable
        await smtpd.reached("quit")
        assert smtpd.connections == 1


@SECURED
@on_every_loop
async def test_a_message_that_begins_with_a_dot_and_one_that_is_large(security: Security) -> None:
    large = b"x" * 70 + b"\r\n.\r\n"
    large *= 20_000
    async with Smtpd(security, extensions=("PIPELINING",)) as smtpd, connected(smtpd) as connection:
        assert isinstance(await send(connection, message=b".\r\n"), Accepted)
        assert isinstance(await send(connection, message=large), Accepted)
        assert [message.data for message in smtpd.messages] == [b".\r\n", large]


@PIPELINED
@on_every_loop
async def test_commands_go_together_only_where_that_is_announced(extensions: tuple[str, ...]) -> None:
    gate = asyncio.Event()
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", wait_for(gate))
        sending = asyncio.create_task(send(connection))
        await smtpd.reached("mail")
        await let_bytes_arrive()
        (session,) = smtpd.sessions
        if "PIPELINING" in extensions:
            assert session.buffer == b"RCPT TO:<jane@example.com> NOTIFY=FAILURE\r\nDATA\r\n"
        else:
            assert session.buffer == b""
        gate.set()
        assert isinstance(await sending, Accepted)


@on_every_loop
async def test_only_what_is_announced_under_tls_counts() -> None:
    async with Smtpd("starttls", extensions=("SIZE 5",), extensions_in_clear=EXTENSIONS) as smtpd:
        async with connected(smtpd) as connection:
            assert connection.capabilities == {"size": "5"}
        assert smtpd.lines.count("EHLO client.test") == 2


@on_every_loop
async def test_replies_may_come_in_pieces_and_in_many_lines() -> None:
    gate = asyncio.Event()
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", answer("250-2.1.0 well,", "250-2.1.0 why", "250 2.1.0 not"))
        smtpd.script("dot", Action(reply="250-2.0.0 ta", gate=gate))
        sending = asyncio.create_task(send(connection))
        await smtpd.reached("dot")
        (session,) = smtpd.sessions
        gate.set()
        await let_bytes_arrive()
        for byte in b"250-2.0.0 ken\r\n250 2.0.0 it":
            session.transport.write(bytes([byte]))
            await let_bytes_arrive()
        assert not sending.done()
        session.transport.write(b"\n")
        outcome = await sending
        assert isinstance(outcome, Accepted)
        assert str(outcome.reply) == "250 2.0.0 ta ken it"
        assert connection.usable


# --- the beginning ----------------------------------------------------------------------------------------------


@SECURED
@PIPELINED
@on_every_loop
async def test_a_message_that_may_not_begin_leaves_the_connection_as_it_was(
    security: Security, extensions: tuple[str, ...]
) -> None:
    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd) as connection:
        assert await send(connection, may_begin=lambda: False) == NotPermitted()
        assert (connection.used, connection.usable) == (0, True)
        assert isinstance(await send(connection), Accepted)
        assert (len(smtpd.messages), smtpd.seen["mail"], smtpd.connections) == (1, 1, 1)


@PIPELINED
@on_every_loop
async def test_a_message_may_begin_as_of_the_moment_of_mail_and_no_server_is_asked_twice_for_rset(
    extensions: tuple[str, ...],
) -> None:
    """Without pipelining, MAIL waits for the reply to RSET, which may take long."""
    asked: list[int] = []
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:

        def may_begin() -> bool:
            asked.append(smtpd.seen["rset"])
            return len(asked) > 1

        smtpd.script("rcpt", answer("550 5.1.1 no such user"), times=1)
        assert isinstance(await send(connection), Refused)
        assert await send(connection, may_begin=may_begin) == NotPermitted()
        assert isinstance(await send(connection, may_begin=may_begin), Accepted)
        assert asked == ([0, 0] if "PIPELINING" in extensions else [1, 1])
        assert (smtpd.seen["rset"], smtpd.seen["mail"]) == (1, 2)


# --- the body and the permission --------------------------------------------------------------------------------


@SECURED
@PIPELINED
@on_every_loop
async def test_nothing_is_written_before_354(security: Security, extensions: tuple[str, ...]) -> None:
    gate = asyncio.Event()
    asked = False

    async def permission() -> bool:
        nonlocal asked
        asked = True
        return True

    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("data", wait_for(gate))
        sending = asyncio.create_task(send(connection, permission))
        await smtpd.reached("data")
        await let_bytes_arrive()
        assert not asked
        assert [session.buffer for session in smtpd.sessions] == [b""]
        gate.set()
        assert isinstance(await sending, Accepted)
        assert smtpd.early == []


@SECURED
@on_every_loop
async def test_nothing_is_written_before_permission(security: Security) -> None:
    allowed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    def permission() -> asyncio.Future[bool]:
        asked.set()
        return allowed

    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        sending = asyncio.create_task(send(connection, permission))
        await asked.wait()
        await let_bytes_arrive()
        assert [session.buffer for session in smtpd.sessions] == [b""]
        assert smtpd.seen["dot"] == 0
        allowed.set_result(True)
        assert isinstance(await sending, Accepted)


@SECURED
@on_every_loop
async def test_without_permission_no_body_leaves_and_the_connection_is_closed(security: Security) -> None:
    async def no() -> bool:
        return False

    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        assert await send(connection, no) == NotPermitted()
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


@on_every_loop
async def test_a_permission_that_fails_is_none() -> None:
    async def broken() -> bool:
        raise LookupError

    async with Smtpd() as smtpd, connected(smtpd) as connection:
        with pytest.raises(LookupError):
            await send(connection, broken)
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


@SECURED
@pytest.mark.parametrize(
    "action", [drop(), close(), answer("421 4.3.2 closing", then="close")], ids=["reset", "close", "421"]
)
@on_every_loop
async def test_a_server_that_goes_while_permission_is_awaited_gets_no_body(security: Security, action: Action) -> None:
    gate = asyncio.Event()

    async def permission() -> bool:
        gate.set()
        await smtpd.until(lambda: not smtpd.sessions)
        await let_bytes_arrive()
        return True

    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        smtpd.script("body", replace(action, gate=gate))
        outcome = await send(connection, permission)
        assert isinstance(outcome, NotSent)
        assert (outcome.phase, outcome.verdict.scope) == (Phase.data, Scope.server)
        assert smtpd.cut == [0]
        assert not connection.usable


@PIPELINED
@on_every_loop
async def test_a_reply_that_comes_before_the_body_does_not_count(extensions: tuple[str, ...]) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("data", answer("354 go ahead", "250 2.0.0 thank you"))
        outcome = await send(connection)
        assert isinstance(outcome, NotSent)
        assert "out of turn" in outcome.detail
        await smtpd.until(lambda: not smtpd.sessions)
        assert smtpd.cut == [0]


# --- refused ----------------------------------------------------------------------------------------------------

REFUSALS = [
    # phase, reply, on a used connection; scope, reason, and whether the connection goes on
    ("mail", "421 4.3.0 closing", False, "server", "server", False),
    ("mail", "451 4.3.0 later", False, "server", "server", False),
    ("mail", "451 4.4.2 Timeout waiting for data from client", True, "stale", "stale", False),
    ("mail", "421 4.4.2 idle", True, "stale", "stale", False),
    ("mail", "530 5.7.0 authenticate", False, "configuration", "configuration", False),
    ("mail", "550 5.7.1 sender", True, "configuration", "configuration", False),
    ("mail", "553 5.1.8 sender", False, "configuration", "configuration", False),
    ("mail", "454 Throttling failure: Maximum sending rate exceeded", True, "throttle", "throttled", True),
    ("mail", "454 Throttling failure: Daily message quota exceeded", False, "quota", "quota", True),
    ("mail", "552 5.3.4 too big", False, "message", "too_large", True),
    ("rcpt", "421 4.3.0 closing", False, "server", "server", False),
    ("rcpt", "421 4.7.28 unusual rate", False, "throttle", "throttled", False),
    ("rcpt", "452 4.3.1 storage", False, "server", "server", False),
    ("rcpt", "450 busy", True, "recipient", "deferred", True),
    ("rcpt", "451 4.7.1 greylisted", False, "recipient", "greylisted", True),
    ("rcpt", "452 4.2.2 over quota", False, "recipient", "mailbox_full", True),
    ("rcpt", "550 5.1.1 no such user", True, "recipient", "bad_address", True),
    ("rcpt", "554 5.7.1 relay access denied", False, "recipient", "relay_denied", True),
    ("rcpt", "550 no", False, "recipient", "rejected", True),
    ("data", "421 closing", False, "server", "server", False),
    ("data", "451 4.3.0 later", False, "server", "server", False),
    ("data", "554 5.5.1 no", True, "message", "rejected", True),
    ("dot", "421 4.3.0 closing", False, "server", "server", False),
    ("dot", "450 4.7.0 sending rate", False, "throttle", "throttled", True),
    ("dot", "454 Throttling failure: Daily message quota exceeded", False, "quota", "quota", True),
    ("dot", "451 4.3.0 later", False, "server", "server", False),
    ("dot", "550 5.7.1 spam", False, "message", "rejected", True),
    ("dot", "554 5.6.0 malformed", True, "message", "rejected", True),
    ("dot", "552 5.3.4 too big", False, "message", "too_large", True),
    ("dot", "530 5.7.0 authenticate", False, "configuration", "configuration", False),
]


@pytest.mark.parametrize(("phase", "said", "used", "scope", "reason", "goes_on"), REFUSALS)
@pytest.mark.parametrize("security", ["off", "starttls"])
@PIPELINED
@on_every_loop
async def test_refused(
    security: Security,
    extensions: tuple[str, ...],
    phase: str,
    said: str,
    used: bool,
    scope: str,
    reason: str,
    goes_on: bool,
) -> None:
    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd) as connection:
        if used:
            assert isinstance(await send(connection), Accepted)
        smtpd.script(phase, answer(said), times=1)
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert (outcome.phase, str(outcome.reply)) == (Phase(phase), said)
        assert (outcome.verdict.scope, outcome.verdict.reason) == (Scope(scope), reason)
        assert len(smtpd.messages) == used
        # What the server had refused does not cling to the next message.
        assert connection.usable == goes_on
        if goes_on:
            assert isinstance(await send(connection, recipient="joe@example.com"), Accepted)
            assert smtpd.messages[-1].recipient == "joe@example.com"
            assert smtpd.seen["rset"] == (phase != "dot")
        else:
            await smtpd.until(lambda: not smtpd.sessions)
        assert len(smtpd.messages) == used + goes_on
        assert smtpd.cut == []


@pytest.mark.parametrize("security", ["off", "starttls"])
@on_every_loop
async def test_after_a_refused_recipient_354_gets_no_body(security: Security) -> None:
    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        smtpd.script("rcpt", answer("550 5.1.1 no such user"))
        smtpd.script("data", answer("354 go ahead"))
        outcome = await send(connection, permission=lambda: pytest.fail("asked for permission"))
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.verdict.reason) == (Phase.rcpt, "bad_address")
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


@PIPELINED
@on_every_loop
async def test_the_first_refusal_decides(extensions: tuple[str, ...]) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", answer("454 4.7.0 rate"))
        smtpd.script("rcpt", answer("550 5.1.1 no such user"))
        smtpd.script("data", answer("554 5.5.1 no valid recipients"))
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.reply.code) == (Phase.mail, 454)
        smtpd.forget_script()
        smtpd.script("rcpt", answer("550 5.1.1 no such user"))
        smtpd.script("data", answer("503 5.5.1 no valid recipients"))
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.reply.code) == (Phase.rcpt, 550)
        pipelined = "PIPELINING" in extensions
        assert (smtpd.seen["rcpt"], smtpd.seen["data"]) == (1, 2 * pipelined)


@on_every_loop
async def test_a_refusal_stands_though_the_server_goes_after_it() -> None:
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("rcpt", answer("550 5.1.1 no such user", then="close"))
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.reason == "bad_address"
        assert not connection.usable


@PIPELINED
@on_every_loop
async def test_a_421_is_not_followed_by_a_wait_for_more(extensions: tuple[str, ...]) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", answer("421 4.3.0 closing"))
        smtpd.script("rcpt", stall())
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.server
        assert not connection.usable


@PIPELINED
@on_every_loop
async def test_a_refused_reset_is_the_connections_fault(extensions: tuple[str, ...]) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("rcpt", answer("550 5.1.1 no such user"), times=1)
        smtpd.script("rset", answer("502 5.5.1 not here"))
        await send(connection)
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.stale
        assert not connection.usable


@pytest.mark.parametrize("other", ["250 2.0.0 ok", "334 go ahead"])
@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
@PIPELINED
@on_every_loop
async def test_an_answer_of_another_kind_is_no_answer(extensions: tuple[str, ...], phase: str, other: str) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script(phase, answer(other if phase == "data" else "354 go ahead"))
        outcome = await send(connection)
        assert isinstance(outcome, InDoubt if phase == "dot" else NotSent)
        assert not connection.usable


# --- lost, and stalled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize(
    "action", [drop(), close(), stall(), answer("hello")], ids=["reset", "close", "stall", "babble"]
)
@SECURED
@PIPELINED
@on_every_loop
async def test_what_goes_wrong_before_354_is_not_sent(
    security: Security, extensions: tuple[str, ...], action: Action, used: bool, phase: str
) -> None:
    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd) as connection:
        if used:
            assert isinstance(await send(connection), Accepted)
        if action.stalls:
            # Each step has its own deadline.
            connection._timeouts = replace(PATIENT, **{"data" if phase == "data" else "command": 0.5})
        smtpd.script(phase, action)
        outcome = await send(connection)
        assert isinstance(outcome, NotSent)
        assert outcome.phase is Phase(phase)
        assert outcome.verdict.scope is (Scope.stale if used and phase == "mail" else Scope.server)
        assert not action.stalls or "within 0.5 s" in outcome.detail
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert len(smtpd.messages) == used
        again = await send(connection)
        assert isinstance(again, NotSent)
        assert again.verdict.scope is Scope.stale


@pytest.mark.parametrize(
    "action",
    [
        drop(),
        close(),
        stall(),
        swallow(),
        answer("hello"),
        answer("250-2.0.0 ok", then="close"),
        answer("250-ok", "550 no"),
    ],
    ids=["reset", "close", "stall", "reply lost", "babble", "half a reply", "two minds"],
)
@SECURED
@PIPELINED
@on_every_loop
async def test_what_goes_wrong_after_the_dot_is_in_doubt(
    security: Security, extensions: tuple[str, ...], action: Action
) -> None:
    timeouts = replace(PATIENT, dot=0.2) if action.stalls else PATIENT
    async with Smtpd(security, extensions=extensions) as smtpd, connected(smtpd, timeouts) as connection:
        smtpd.script("dot", action)
        outcome = await send(connection)
        assert isinstance(outcome, InDoubt)
        assert outcome.detail
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert len(smtpd.messages) == (action.accepts or (action.reply or "").startswith("250"))
        assert smtpd.cut == []


@pytest.mark.parametrize("action", [drop(), close(), stall()], ids=["reset", "close", "stall"])
@SECURED
@on_every_loop
async def test_what_goes_wrong_before_the_dot_has_left_is_not_sent(security: Security, action: Action) -> None:
    """The server stops reading; more than the kernel's buffers hold is still here when it goes."""
    gate = asyncio.Event()
    huge = (b"x" * 76 + b"\r\n") * 500_000
    async with (
        Smtpd(security, extensions=("PIPELINING",)) as smtpd,
        connected(smtpd, replace(PATIENT, dot=1.0 if action.stalls else 10.0)) as connection,
    ):
        smtpd.script("body", replace(action, deaf=True, gate=None if action.stalls else gate))
        sending = asyncio.create_task(send(connection, message=huge))
        await eventually(lambda: connection._protocol.unsent)
        gate.set()
        outcome = await sending
        assert isinstance(outcome, NotSent)
        assert (outcome.phase, outcome.verdict.scope) == (Phase.dot, Scope.server)
        for session in smtpd.sessions:
            session.transport.resume_reading()
        await smtpd.until(lambda: not smtpd.sessions)
        assert smtpd.messages == []
        assert len(smtpd.cut) == 1
        assert smtpd.cut[0] < len(huge)


@pytest.mark.parametrize("said", ["250 2.0.0 thank you", "552 5.3.4 that is enough"])
@SECURED
@on_every_loop
async def test_an_answer_to_half_a_message(security: Security, said: str) -> None:
    gate = asyncio.Event()
    huge = (b"x" * 76 + b"\r\n") * 500_000
    async with Smtpd(security, extensions=("PIPELINING",)) as smtpd, connected(smtpd) as connection:
        smtpd.script("body", Action(deaf=True, gate=gate, silent=True))
        sending = asyncio.create_task(send(connection, message=huge))
        await eventually(lambda: connection._protocol.unsent)
        (session,) = smtpd.sessions
        session.transport.write(f"{said}\r\n".encode())
        outcome = await sending
        assert isinstance(outcome, NotSent if said.startswith("250") else Refused)
        assert outcome.phase is Phase.dot
        assert not connection.usable
        gate.set()
        await smtpd.until(lambda: not smtpd.sessions)
        assert smtpd.messages == []


@pytest.mark.parametrize("action", [Action(), swallow()], ids=["accepted", "reply lost"])
@SECURED
@on_every_loop
async def test_what_was_held_up_and_then_left_has_left(security: Security, action: Action) -> None:
    reading = asyncio.Event()
    huge = (b"x" * 76 + b"\r\n") * 500_000
    async with Smtpd(security, extensions=("PIPELINING",)) as smtpd, connected(smtpd) as connection:
        smtpd.script("body", Action(deaf=True, gate=reading, silent=True))
        smtpd.script("dot", action)
        sending = asyncio.create_task(send(connection, message=huge))
        await eventually(lambda: connection._protocol.unsent)
        reading.set()
        assert isinstance(await sending, InDoubt if action.silent else Accepted)
        assert len(smtpd.messages) == 1
        assert smtpd.messages[0].data == huge


@on_every_loop
async def test_nothing_is_written_on_a_lost_connection() -> None:
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        connection.abort()
        connection._protocol.send(b"NOOP\r\n")
        assert connection._protocol.unsent


@pytest.mark.parametrize("line", [b"x" * 100, b"250-x\r\n"], ids=["line", "lines"])
@on_every_loop
async def test_a_reply_without_end_is_not_kept(line: bytes) -> None:
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", stall())
        sending = asyncio.create_task(send(connection))
        await smtpd.reached("mail")
        (session,) = smtpd.sessions
        session.transport.write(line * 500)
        outcome = await sending
        assert isinstance(outcome, NotSent)
        assert "no end" in outcome.detail


@pytest.mark.parametrize("security", ["off", "starttls"])
@on_every_loop
async def test_what_is_held_up_by_full_buffers_is_not_sent(security: Security) -> None:
    """Less than asyncio's TLS would call full: 64 KiB."""
    gate = asyncio.Event()
    message = (b"x" * 76 + b"\r\n") * 500
    async with (
        Smtpd(security, extensions=("PIPELINING",), receive_buffer=1) as smtpd,
        connected(smtpd) as connection,
    ):
        with duplicate(connection._protocol._transport.get_extra_info("socket")) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        smtpd.script("body", Action(deaf=True, gate=gate, silent=True, then="reset"))
        sending = asyncio.create_task(send(connection, message=message))
        await eventually(lambda: connection._protocol.unsent)
        gate.set()
        assert isinstance(await sending, NotSent)
        assert smtpd.messages == []


@on_every_loop
async def test_a_body_that_the_kernel_refuses_is_not_sent() -> None:
    async def permission() -> bool:
        with duplicate(connection._protocol._transport.get_extra_info("socket")) as sock:
            sock.shutdown(socket.SHUT_WR)
        return True

    async with Smtpd() as smtpd, connected(smtpd) as connection:
        outcome = await send(connection, permission)
        assert isinstance(outcome, NotSent)
        assert outcome.phase is Phase.dot
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


# --- cancelled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
@PIPELINED
@on_every_loop
async def test_cancelled_before_354_nothing_was_sent(extensions: tuple[str, ...], phase: str) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script(phase, stall())
        sending = asyncio.create_task(send(connection))
        await smtpd.reached(phase)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)
        assert smtpd.messages == []


@on_every_loop
async def test_cancelled_while_permission_is_awaited_nothing_was_sent() -> None:
    asked = asyncio.Event()

    async def permission() -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with Smtpd() as smtpd, connected(smtpd) as connection:
        sending = asyncio.create_task(send(connection, permission))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


@on_every_loop
async def test_cancelled_in_the_moment_permission_is_given_nothing_was_sent() -> None:
    allowed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    def permission() -> asyncio.Future[bool]:
        asked.set()
        return allowed

    async with Smtpd() as smtpd, connected(smtpd) as connection:
        sending = asyncio.create_task(send(connection, permission))
        await asked.wait()
        allowed.set_result(True)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await smtpd.until(lambda: not smtpd.sessions)
        assert (smtpd.cut, smtpd.messages) == ([0], [])


@SECURED
@on_every_loop
async def test_cancelling_after_the_dot_does_not_end_the_wait(security: Security) -> None:
    gate = asyncio.Event()
    known: list[SendOutcome] = []

    async def deliver() -> int:
        known.append(await send(connection))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        smtpd.script("dot", wait_for(gate))
        delivering = asyncio.create_task(deliver())
        await smtpd.reached("dot")
        for _ in range(3):
            delivering.cancel()
            await let_bytes_arrive()
        assert not delivering.done()
        gate.set()
        assert await delivering == 3
        assert isinstance(known[0], Accepted)
        assert connection.usable


@on_every_loop
async def test_cancelled_together_with_the_reply() -> None:
    gate = asyncio.Event()
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("dot", wait_for(gate))
        sending = asyncio.create_task(send(connection))
        await smtpd.reached("dot")
        await let_bytes_arrive()
        (session,) = smtpd.sessions
        session.transport.write(b"250 2.0.0 ok\r\n")
        sending.cancel()
        assert isinstance(await sending, Accepted)


@on_every_loop
async def test_a_cancelled_wait_still_ends_at_its_deadline_and_by_abort() -> None:
    async with Smtpd() as smtpd:
        smtpd.script("dot", stall())
        for timeouts in (SHORT, PATIENT):
            async with connected(smtpd, timeouts) as connection:
                sending = asyncio.create_task(send(connection))
                await smtpd.reached("dot", smtpd.connections)
                sending.cancel()
                if timeouts is PATIENT:
                    await let_bytes_arrive()
                    connection.abort()
                assert isinstance(await sending, InDoubt)
        assert smtpd.messages == []


# --- between two messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        answer("421 4.4.2 idle too long", then="close"),
        answer("421 4.4.2 idle too long"),
        answer("421-4.4.2 idle"),
        close(),
        drop(),
    ],
    ids=["421 and close", "421", "half a reply", "close", "reset"],
)
@SECURED
@on_every_loop
async def test_a_server_that_speaks_or_goes_unasked_is_not_used_again(security: Security, action: Action) -> None:
    gate = asyncio.Event()
    async with Smtpd(security) as smtpd, connected(smtpd) as connection:
        smtpd.script("idle", replace(action, gate=gate))
        assert isinstance(await send(connection), Accepted)
        assert connection.usable
        gate.set()
        await eventually(lambda: not connection.usable)
        outcome = await send(connection)
        assert isinstance(outcome, NotSent)
        assert (outcome.phase, outcome.verdict.scope) == (Phase.mail, Scope.stale)
        assert len(smtpd.messages) == 1


@on_every_loop
async def test_a_connection_that_has_lain_idle_counts_as_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.smtp.connection._MAX_FRESH_S", -1.0)
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("mail", answer("451 4.4.2 Timeout waiting for data from client"))
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.stale


@on_every_loop
async def test_a_server_that_ends_connections_after_some_messages() -> None:
    async with Smtpd(messages_per_connection=2) as smtpd, connected(smtpd) as connection:
        await send(connection)
        await send(connection)
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.stale
        assert len(smtpd.messages) == 2


@on_every_loop
async def test_one_hand_over_at_a_time() -> None:
    gate = asyncio.Event()
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("dot", wait_for(gate))
        sending = asyncio.create_task(send(connection))
        await smtpd.reached("dot")
        assert not connection.usable
        with pytest.raises(RuntimeError, match="one message at a time"):
            await send(connection)
        gate.set()
        assert isinstance(await sending, Accepted)
        assert len(smtpd.messages) == 1


@pytest.mark.parametrize(
    "action", [stall(), drop(), close(), answer("500 what?")], ids=["stall", "reset", "close", "500"]
)
@SECURED
@on_every_loop
async def test_closing_takes_no_longer_than_it_may(security: Security, action: Action) -> None:
    async with Smtpd(security) as smtpd, connected(smtpd, SHORT) as connection:
        smtpd.script("quit", action)
        async with asyncio.timeout(20):
            await connection.close()
        assert not connection.usable
        await smtpd.until(lambda: not smtpd.sessions)


# --- what this server cannot take -----------------------------------------------------------------------------------


@on_every_loop
async def test_a_message_over_the_announced_size_is_refused_unasked() -> None:
    limit = 100_000
    async with Smtpd(extensions=(f"SIZE {limit}",)) as smtpd, connected(smtpd) as connection:
        outcome = await send(connection, message=b"x" * (limit - 1) + b"\r\n")
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.verdict.reason, outcome.verdict.permanent) == (Phase.mail, "too_large", True)
        assert outcome.verdict.if_shared is None
        assert smtpd.mails == 0
        assert connection.usable
        assert isinstance(await send(connection, message=b"x" * (limit - 2) + b"\r\n"), Accepted)


@on_every_loop
async def test_a_size_that_no_server_may_announce_is_the_servers_fault() -> None:
    """RFC 5321 4.5.3.1.7: each server takes 64 KiB."""
    async with Smtpd(extensions=("SIZE 1",)) as smtpd, connected(smtpd) as connection:
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.configuration
        assert "SIZE 1" in str(outcome.reply)
        assert smtpd.mails == 0


@on_every_loop
async def test_a_421_after_a_refused_recipient_ends_the_connection_although_the_server_leaves_it_open() -> None:
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        smtpd.script("rcpt", answer("550 5.1.1 no such user"), times=1)
        smtpd.script("data", answer("421 4.7.0 closing"), times=1)
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.verdict.reason) == (Phase.rcpt, "bad_address")
        assert not connection.usable


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE many", "SIZE " + "9" * 5000])
@on_every_loop
async def test_a_size_that_is_no_limit(size: str) -> None:
    async with Smtpd(extensions=(size,)) as smtpd, connected(smtpd) as connection:
        assert isinstance(await send(connection), Accepted)


@on_every_loop
async def test_a_non_ascii_address_needs_smtputf8() -> None:
    async with Smtpd(extensions=("PIPELINING",)) as smtpd, connected(smtpd) as connection:
        outcome = await send(connection, recipient="用户@example.com")
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.verdict.reason, outcome.verdict.permanent) == (Phase.rcpt, "bad_address", True)
        outcome = await send(connection, sender="用户@example.com")
        assert isinstance(outcome, Refused)
        assert (outcome.phase, outcome.verdict.scope) == (Phase.mail, Scope.configuration)
        assert smtpd.mails == 0
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        assert isinstance(await send(connection, recipient="用户@example.com"), Accepted)
        assert "SMTPUTF8" in smtpd.messages[0].mail_parameters
        assert isinstance(await send(connection), Accepted)
        assert "SMTPUTF8" not in smtpd.messages[1].mail_parameters
        assert [message.recipient for message in smtpd.messages] == ["用户@example.com", "jane@example.com"]


@pytest.mark.parametrize("code", [500, 501, 502, 504, 555])
@PIPELINED
@on_every_loop
async def test_a_refused_parameter_is_not_used_again(extensions: tuple[str, ...], code: int) -> None:
    async with Smtpd(extensions=extensions) as smtpd, connected(smtpd) as connection:
        smtpd.script("rcpt", answer(f"{code} 5.5.4 what is NOTIFY?"), times=1)
        outcome = await send(connection, recipient="用户@example.com")
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.capability
        assert "dsn" not in connection.capabilities
        assert isinstance(await send(connection), Accepted)
        assert smtpd.messages[-1].rcpt_parameters == ()
        smtpd.script("mail", answer(f"{code} what is SIZE?"), times=1)
        outcome = await send(connection, recipient="用户@example.com")
        assert isinstance(outcome, Refused)
        assert outcome.verdict.scope is Scope.capability
        assert isinstance(await send(connection, recipient="用户@example.com"), Accepted)
        assert smtpd.messages[-1].mail_parameters == ("SMTPUTF8",)
        smtpd.script("mail", answer(f"{code} what is SMTPUTF8?"), times=1)
        await send(connection, recipient="用户@example.com")
        outcome = await send(connection, recipient="用户@example.com")
        assert isinstance(outcome, Refused)
        assert outcome.verdict.reason == "bad_address"
        # Without a parameter to drop, it is what it says.
        smtpd.script("rcpt", answer(f"{code} 5.5.4 no"), times=1)
        outcome = await send(connection)
        assert isinstance(outcome, Refused)
        assert outcome.verdict.reason == "rejected"


@pytest.mark.parametrize("message", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\rb\r\n", b"a", b"a\n.\r\nMAIL FROM:<x@y>\r\n"])
@on_every_loop
async def test_a_message_that_could_pass_as_two_does_not_leave(message: bytes) -> None:
    async with Smtpd() as smtpd, connected(smtpd) as connection:
        outcome = await send(connection, message=message)
        assert isinstance(outcome, Refused)
        assert (outcome.verdict.scope, outcome.verdict.permanent) == (Scope.message, True)
        assert smtpd.mails == 0
        assert connection.usable
