"""The commands and the body: nothing leaves that could be read as more than one message."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.address import parse_address
from listener.smtp.commands import body, commands

SENDER = parse_address("no-reply@example.org")
JANE = parse_address("jane@example.com")
KEY = "abcdefghijklmnopqrstuvwxyz"


def lines(announced: dict[str, str], recipient: str = "jane@example.com", key: str = KEY) -> list[str]:
    return [step.line.decode() for step in commands(SENDER, parse_address(recipient), 1234, key, announced)]


def test_a_server_that_announces_nothing_is_asked_for_nothing() -> None:
    assert lines({"pipelining": "", "8bitmime": ""}) == [
        "MAIL FROM:<no-reply@example.org>\r\n",
        "RCPT TO:<jane@example.com>\r\n",
        "DATA\r\n",
    ]


def test_what_is_announced_is_used() -> None:
    assert lines({"size": "10000", "dsn": "", "smtputf8": ""}) == [
        f"MAIL FROM:<no-reply@example.org> SIZE=1234 RET=HDRS ENVID={KEY}\r\n",
        "RCPT TO:<jane@example.com> NOTIFY=FAILURE\r\n",
        "DATA\r\n",
    ]


def test_a_local_part_with_dots_of_its_own_is_quoted() -> None:
    quoted = 'RCPT TO:<"try..this..0511"@docomo.ne.jp>'
    assert lines({}, "try..this..0511@docomo.ne.jp")[1] == f"{quoted}\r\n"
    assert lines({"dsn": ""}, "try..this..0511@docomo.ne.jp")[1] == f"{quoted} NOTIFY=FAILURE\r\n"


def test_smtputf8_is_asked_for_where_an_address_needs_it() -> None:
    assert lines({"smtputf8": ""}, "用户@example.com")[:2] == [
        "MAIL FROM:<no-reply@example.org> SMTPUTF8\r\n",
        "RCPT TO:<用户@example.com>\r\n",
    ]


def test_the_key_goes_as_xtext() -> None:
    assert "ENVID=a+2Bb+3Dc+20d+0D+0A+C3+A9!~\r\n" in lines({"dsn": ""}, key="a+b=c d\r\né!~")[0]


def test_each_command_knows_whose_parameters_it_carries() -> None:
    mail, rcpt, data = commands(SENDER, JANE, 1, KEY, {"dsn": "", "size": ""})
    assert (mail.extensions, rcpt.extensions, data.extensions) == (("size", "dsn"), ("dsn",), ())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b".a\r\n.\r\n..b\r\n", b"..a\r\n..\r\n...b\r\n.\r\n"),
        (b"a\r\n\r\n.\r\n\r\n", b"a\r\n\r\n..\r\n\r\n.\r\n"),
        (b"a.\r\nb\r\n", b"a.\r\nb\r\n.\r\n"),
    ],
)
def test_dots_are_stuffed(message: bytes, expected: bytes) -> None:
    assert body(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        b"", b"a", b"a\r", b"a\n", b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"a\n\r\n", b"a\n\r", b"a\n.\r\nb\r\n",
        b"a\r\n.\rb\r\n", b"a\r\n.\nMAIL FROM:<x@y>\r\n", b"a\r.\r\n", b"a\0b\r\n", b"a\n\r\nb\rc\r\n",
    ],
)  # fmt: skip
def test_what_could_end_early_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match="message"):
        body(message)


@given(st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\0"]), max_size=12).map(b"".join))
def test_only_crlf_leaves_and_exactly_one_end(message: bytes) -> None:
    clean = message.endswith(b"\r\n") and not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", message)
    try:
        data = body(message)
    except ValueError:
        assert not clean
        return
    assert clean
    assert data.replace(b"\r\n", b"").count(b"\r") == data.replace(b"\r\n", b"").count(b"\n") == 0
    # The first "." alone on a line is at the very end, and a server gets back what was given.
    *content, dot, rest = data.split(b"\r\n")
    assert (dot, rest) == (b".", b"")
    assert b"." not in content
    assert b"".join(line.removeprefix(b".") + b"\r\n" for line in content) == message
