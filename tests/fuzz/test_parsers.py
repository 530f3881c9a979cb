"""Each parser of text from rows and servers reads any text, or refuses it with its own error and no other."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from listener.address import Address, Mailbox, mask, parse_address, parse_mailbox
from listener.bounces.dsn import read_report
from listener.bounces.report import BadReport, Report
from listener.errors import BadData
from listener.smtp.commands import commands
from listener.smtp.replies import Phase, Reply
from listener.smtp.verdicts import classify
from tests.fuzz.test_send import BUDGET, REPLIES, SENDER
from tests.support.reports import arf, dsn, exim, qmail

SOME = settings(BUDGET, max_examples=max(300, settings.default.max_examples if settings.default else 0))

PIECES = [
    "jane", "@", "example.org", ".", "..", " ", "\r\n", "\n", "\r", "\0", '"', "<", ">", ",", ";", ":", "(", ")", "[127.0.0.1]", "\\",
    "=?utf-8?q?", "?=", "é", "用户", "münchen", "xn--", "xn--mnchen-3ya", "-", "_", "\u202e", "\u200d", "\ufeff", "\ud800", "ß", "İ",
    "％", "＠", "。", "a" * 64, "a" * 63 + ".", "RCPT TO:<x@y>", "%40", "!", "+tag", "\u0301", "1.2.3.4", "\x7f", "\x85",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=10).map("".join) | st.text(max_size=300)
ADDRESSES = st.builds("{}@{}".format, TEXTS, st.sampled_from(["example.org", "münchen.example"]) | TEXTS) | TEXTS


@SOME
@given(ADDRESSES)
@example("jane@example.org\r\nRCPT TO:<evil@example.org>")
@example('"jane doe"@example.org')
@example("xxx.@docomo.ne.jp")
@example("jane@example.org <evil@example.org>")
@example("mailto:jane%0D%0ADATA@example.org")
def test_an_address_is_safe_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except BadData as error:
        bad = error
    else:
        assert_safe(address)
        assert parse_address(str(address)) == address
        return
    assert bad.reason == "bad_address"
    # The error's text is stored, and must not repeat the address.
    assert len(text) < 20 or text not in str(bad)


def is_one_line(text: str) -> bool:
    return not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)


def assert_safe(address: Address) -> None:
    written = str(address).encode()
    # Quotes stand around a local part or nowhere, so that they cannot hide an @ or a bracket.
    assert not re.search(rb"[\x00-\x20\x7f<>\"(),:;\[\]\\]", re.sub(rb'^"([^"]+)"@', rb"\1@", written))
    assert written.count(b"@") == 1
    assert b"=?" not in written
    assert len(written) <= 254
    assert len(written.rpartition(b"@")[0]) <= 64
    assert address.domain.isascii()
    for step in commands(SENDER, address, 1, "key", {"size": "", "dsn": "", "smtputf8": ""}):
        assert step.line.count(b"\n") == step.line.count(b"\r") == 1
        assert step.line.endswith(b"\r\n")
        # RFC 5321 4.5.3.1.4, and what SIZE, DSN and SMTPUTF8 add.
        assert len(step.line) <= 512 + 26 + 100 + 10


@SOME
@given(TEXTS | st.builds("{} <{}>".format, TEXTS, ADDRESSES))
def test_a_mailbox_is_read_or_refused(text: str) -> None:
    try:
        mailbox = parse_mailbox(text)
    except ValueError:
        return
    assert isinstance(mailbox, Mailbox)
    assert_safe(mailbox.address)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", mailbox.name)


@SOME
@given(
    st.lists(st.sampled_from(REPLIES) | st.binary(max_size=80), min_size=1, max_size=4),
    st.sampled_from(Phase),
    st.booleans(),
)
def test_a_reply_is_read_or_refused(lines: list[bytes], phase: Phase, flag: bool) -> None:
    try:
        reply = Reply.parse(lines)
    except ValueError:
        return
    assert 200 <= reply.code <= 599
    assert len(reply.text) <= 512
    assert is_one_line(reply.text)
    assert "@" not in reply.text or "***@" in reply.text or not re.search(r"\w@\w", reply.text)
    classify(phase, reply, reused=flag, extended=flag)


@SOME
@given(TEXTS | ADDRESSES)
def test_masking_leaves_no_address(text: str) -> None:
    shown = mask(f"said <{text}> to jane.doe@example.org")
    assert is_one_line(shown)
    assert "jane.doe@" not in shown


SAMPLES = [dsn(), dsn(forwarded=True), dsn(encoding="base64"), arf(), exim("550 5.1.1 no"), qmail("no (#5.1.1)")]
MIME = [
    b"\n", b"--B1/relay", b"Content-Type: ", b"message/rfc822", b"multipart/mixed; boundary=", b"*0*=utf-8''%ff", b'"', b"\xff",
    b"Content-Transfer-Encoding: ", b"x-uuencode", b"base64", b"=?utf-8?q?=ff?=", b"\0", b":", b"Status: ", b"Action: failed",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(MIME) | st.binary(max_size=5)), max_size=8
)


@SOME
@given(st.sampled_from(SAMPLES), EDITS)
def test_a_damaged_report_is_read_or_refused(raw: bytes, edits: list[tuple[float, int, bytes]]) -> None:
    for where, length, piece in edits:
        at = round(where * len(raw))
        raw = raw[:at] + piece + raw[at + length :]
    try:
        report = read_report(raw)
    except BadReport as error:
        report = str(error)
    assert is_one_line(report.detail if isinstance(report, Report) else report)
