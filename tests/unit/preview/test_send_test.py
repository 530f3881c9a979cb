"""send-test: its message needs no database, and each outcome becomes one sentence with a remedy."""

import email
import email.policy
from typing import Any

import pytest

from listener.address import parse_address
from listener.config.settings import Settings
from listener.errors import PgheraldError
from listener.mail.composer import Message
from listener.preview.send_test import compose_test, send
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.replies import Phase, Reply
from listener.smtp.sending import Sending
from listener.smtp.verdicts import SERVER, classify

JANE = parse_address("jane@example.org")


class FakeTransport:
    """Returns a given outcome. Asks for permission, as every transport does."""

    def __init__(self, outcome: SendOutcome) -> None:
        self.outcome = outcome
        self.sent: list[tuple[str, str, bytes, str]] = []
        self.closed = False

    async def send(self, sending: Sending) -> SendOutcome:
        assert await sending.permission()
        self.sent.append((str(sending.sender), str(sending.recipient), sending.raw, sending.message_id))
        return self.outcome

    def abort(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


def settings(**mail: Any) -> Settings:
    return Settings.model_validate({"mail": {"from": "Herald <no-reply@example.com>", **mail}})


def composed(**mail: Any) -> Message:
    return compose_test(settings(**mail), JANE, "127.0.0.1:25, in clear")


def test_the_message_says_what_it_is() -> None:
    parsed = email.message_from_bytes(composed().octets, policy=email.policy.default)
    assert not parsed.defects
    assert parsed["Subject"] == "Test message from pgherald"
    assert parsed["To"] == "jane@example.org"
    assert "127.0.0.1:25, in clear" in parsed.get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_it_has_the_headers_that_a_provider_needs() -> None:
    message = composed(reply_to="help@example.org", headers={"X-PM-Message-Stream": "outbound"})
    parsed = email.message_from_bytes(message.octets, policy=email.policy.default)
    assert (parsed["Reply-To"], parsed["X-PM-Message-Stream"]) == ("help@example.org", "outbound")


def test_each_message_is_another_one() -> None:
    assert composed().key != composed().key


def test_a_redirection_holds_for_it_too() -> None:
    message = composed(redirect_to="qa@example.org")
    assert str(message.recipient) == "qa@example.org"
    assert b"\r\nX-Original-To: j***@example.org\r\n" in message.octets


async def test_an_accepted_message_returns_the_reply_and_closes_the_transport() -> None:
    reply, message = Reply(250, "2.0.0", "queued as 1"), composed()
    transport = FakeTransport(Accepted(reply))
    assert await send(parse_address("bounces@example.com"), transport, message) == reply
    assert transport.sent == [("bounces@example.com", "jane@example.org", message.octets, message.key)]
    assert transport.closed


_UNKNOWN = Reply(550, "5.1.1", "no such user")


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (
            Refused(Phase.rcpt, _UNKNOWN, classify(Phase.rcpt, _UNKNOWN, reused=False)),
            "not sent: RCPT: 550 5.1.1 no such user -> the server knows no such mailbox: correct the address",
        ),
        (
            NotSent(Phase.connect, "127.0.0.1:25: connection refused", SERVER),
            "not sent: CONNECT: 127.0.0.1:25: connection refused -> start the mail server, correct [smtp] url, "
            "or open the firewall",
        ),
        (
            InDoubt("no reply within 600 s"),
            "in doubt: the message was sent, but no reply came: no reply within 600 s -> look in the mailbox",
        ),
        (NotPermitted(), "not sent"),
    ],
)
async def test_any_other_outcome_is_one_sentence(outcome: SendOutcome, error: str) -> None:
    transport = FakeTransport(outcome)
    with pytest.raises(PgheraldError) as caught:
        await send(parse_address("a@example.com"), transport, composed())
    assert str(caught.value) == error
    assert transport.closed
