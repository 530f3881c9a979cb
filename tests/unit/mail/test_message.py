"""Messages: the standard library reads back what was meant, and nothing in a row can become a header."""

import dataclasses
import email
import email.policy
import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from email.header import decode_header, make_header
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.address import Address, Mailbox, parse_address, parse_mailbox
from listener.errors import BadData
from listener.mail.message import Content, MessageDefaults, build
from listener.transport.base import MAX_MESSAGE_BYTES

KEY = "k" * 26
DATE = datetime(2026, 11, 22, 9, 5, 7, 123456, tzinfo=UTC)
JANE = Address("jane", "example.org")
PLAIN = MessageDefaults(parse_mailbox("Date Plans <no-reply@plans.example>"))
CONTENT = Content("Verified 🎉", "Congratulations!\n", "<p>Congratulations!</p>\n")
HEADERS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "X-Pgherald-Key",
    "Content-Type",
]

HOSTILE = [
    "x\r\nBcc: evil@example.org",
    "x\nBcc: evil@example.org",
    "x\rBcc: evil@example.org",
    "x\r\n\r\n<script>",
    "x\n",
    "\r\n\r\nx",
    "x\x0bBcc: e\x0cBcc: e\x1cBcc: e\x85Bcc: e\u2028Bcc: e\u2029Bcc: e",
    "=?utf-8?q?x=0d=0aBcc=3a_evil@example.org?=",
    "x =?UTF-8?Q?=0A?=Bcc: evil@example.org",
    "=?utf-8?b?eA0KQmNjOiBldmlsQGV4YW1wbGUub3Jn?=",
    "=?utf-8?q?=0d=0a=0d=0abody?=",
    "=?utf-8?q??=",
    "=?",
    "=? x ?=",
    "é =?utf-8?q?x=0d=0aBcc=3a_evil?=",
    "x\x00y\x7fz",
    "x\r\n.\r\nMAIL FROM:<evil@example.org>\r\n",
    "\u202egro.elpmaxe@live\u2066\u061c\u200e\u200f\u2069",
    "\ud800x\udfff",
    "a" * 500,
    "é" * 500,
    "🎉" * 500,
    "a b " * 300,
    ".",
    "=" * 100,
    "--=_" + KEY + "--",
    "%s{{ 7*7 }}${x}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(hostile: str) -> None:
    content = Content(hostile, hostile, hostile)
    message = _read(build(PLAIN, content, JANE, KEY, DATE))
    assert message.keys() == HEADERS
    assert message["To"] == "jane@example.org"
    _assert_says(message, content)


def _texts() -> st.SearchStrategy[str]:
    """Texts with what breaks messages: line ends of all kinds, dots, trailing white space, long lines."""
    piece = st.one_of(
        st.text(max_size=100),
        st.text(st.characters(max_codepoint=0x7E), max_size=200),
        st.sampled_from(HOSTILE),
        st.sampled_from(["\r\n", "\n", "\r", " \n", "\t\r\n", " ", ".", "\n.\n", "=\n", "\n--=_", "From ", "\u0085"]),
        st.builds(
            lambda char, count, end: char * count + end,
            st.sampled_from("x=. é\t"),
            st.integers(60, 90),
            st.sampled_from([" \n", ".\n", "\t\n", "\n", "=\n", ""]),
        ),
    )
    return st.lists(piece, max_size=12).map("".join)


@given(_texts(), _texts(), st.none() | _texts())
@example("", "", "")
@example("x", "x" * 74 + " \n", "x" * 75 + ".\n")
@example("x", "x" * 75 + ".", None)
def test_the_standard_library_reads_back_what_was_meant(subject: str, text: str, html: str | None) -> None:
    content = Content(subject, text, html)
    raw = build(PLAIN, content, JANE, KEY, DATE)
    message = _read(raw)
    assert message.keys() == (HEADERS if html is not None else [*HEADERS, "Content-Transfer-Encoding"])
    assert message["Date"].datetime == DATE.replace(microsecond=0)
    assert message["Message-ID"] == f"<{KEY}@plans.example>"
    _assert_says(message, content)
    assert raw == build(PLAIN, content, JANE, KEY, DATE)


_LOCALS = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=20)
_DOMAINS = st.sampled_from(["example.org", "xn--bcher-kva.example", "localhost", ".".join(["a" * 60] * 3)])


@given(st.text(max_size=200), _LOCALS, _LOCALS, _DOMAINS)
@example("=?utf-8?q?x=0d=0aBcc=3a_evil?=", "jane", "doe", "example.org")
@example('Plans, "Date" \\', "jane", "doe", "example.org")
@example("a" * 200, "jane", "doe", "example.org")
def test_names_and_addresses_are_read_back(name: str, local: str, other: str, domain: str) -> None:
    try:
        sender = Mailbox(name, Address(local, domain))
        recipient = Address(other, domain)
    except (BadData, ValueError):
        return
    raw = build(MessageDefaults(sender, reply_to=(sender,)), CONTENT, recipient, KEY, DATE)
    message = _read(raw)
    for header in ("From", "Reply-To"):
        (address,) = message[header].addresses
        assert (address.username, address.domain) == (local, domain)
        assert _display_name(raw, header) == _one_line(name)
    (recipient,) = message["To"].addresses
    assert (recipient.display_name, recipient.username, recipient.domain) == ("", other, domain)


def test_the_whole_message_as_it_is_written() -> None:
    # A message in doubt may be sent again by a later release: change these bytes only knowingly.
    defaults = MessageDefaults(
        parse_mailbox('"Plans, Date" <no-reply@Bücher.example>'),
        idempotency_header="Resend-Idempotency-Key",
        reply_to=(parse_mailbox("help@plans.example"),),
        headers={"Feedback-ID": "a:b:c:pgherald", "X-Data": '{"a":  "=?"}'},
    )
    recipient = parse_address("jane@münchen.example")
    url = "https://plans.example/u/abc"
    date = DATE.astimezone(timezone(timedelta(hours=-7)))
    raw = build(defaults, CONTENT, recipient, KEY, date, unsubscribe=[url])
    assert raw.decode("ascii").split("\r\n") == [
        'From: "Plans, Date" <no-reply@xn--bcher-kva.example>',
        "To: jane@xn--mnchen-3ya.example",
        "Subject: =?utf-8?q?Verified_=F0=9F=8E=89?=",
        "Date: Sun, 22 Nov 2026 09:05:07 +0000",
        f"Message-ID: <{KEY}@xn--bcher-kva.example>",
        "Reply-To: help@plans.example",
        "MIME-Version: 1.0",
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: OOF, AutoReply, RN, NRN",
        "Feedback-ID: a:b:c:pgherald",
        'X-Data: {"a":  "=?"}',
        f"Resend-Idempotency-Key: {KEY}",
        f"List-Unsubscribe: <{url}>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        "Content-Type: multipart/alternative;",
        f' boundary="=_{KEY}"',
        "",
        f"--=_{KEY}",
        'Content-Type: text/plain; charset="utf-8"',
        "Content-Transfer-Encoding: quoted-printable",
        "",
        "Congratulations!",
        "",
        f"--=_{KEY}",
        'Content-Type: text/html; charset="utf-8"',
        "Content-Transfer-Encoding: quoted-printable",
        "",
        "<p>Congratulations!</p>",
        "",
        f"--=_{KEY}--",
        "",
    ]


def test_without_html_it_is_a_text_mail() -> None:
    message = _read(build(PLAIN, dataclasses.replace(CONTENT, html=None), JANE, KEY, DATE))
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == "Congratulations!\r\n"


def test_a_local_part_that_is_not_ascii_is_written_as_utf_8() -> None:
    raw = build(PLAIN, CONTENT, parse_address("josé@example.org"), KEY, DATE)
    assert "\r\nTo: josé@example.org\r\n".encode() in raw


def test_a_long_subject_is_cut_at_200_characters_before_it_is_encoded() -> None:
    message = _read(build(PLAIN, Content("é" * 5000, "", None), JANE, KEY, DATE))
    assert message["Subject"] == "é" * 200


@pytest.mark.parametrize("subject", ["word " * 40, "é " * 100, "x" * 200, "🎉" * 200, "=?" * 100])
def test_headers_are_folded_where_they_can_be(subject: str) -> None:
    sender = Mailbox("A name so long that with its address it does not fit in a line", PLAIN.sender.address)
    raw = build(MessageDefaults(sender), Content(subject, "", None), JANE, KEY, DATE)
    head = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(len(line) for line in head if b"=?" in line or b"x" * 50 not in line) <= 76
    assert all(line.strip() for line in head)


@pytest.mark.parametrize(
    "content",
    [
        Content("s", "x" * 1_000_000, None),
        Content("s", "\0" * 1_000_001, None),
        Content("s", "x", "x" * 1_000_000),
        Content("s", "é" * 400_000, None),
    ],
    ids=["text", "before it is encoded", "html", "encoded"],
)
def test_a_message_over_the_limit_is_bad_data(content: Content) -> None:
    with pytest.raises(BadData) as caught:
        build(PLAIN, content, JANE, KEY, DATE)
    assert caught.value.reason == "too_large"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["x", "é", " \n", ".\n", "\r", "\t", "\x00\n", "\x85", "=?"])
def test_a_message_just_under_the_limit_is_built_in_linear_time(piece: str) -> None:
    content = Content(piece * 150_000, piece * 150_000, None)
    raw = build(PLAIN, content, JANE, KEY, DATE)
    assert len(raw) <= MAX_MESSAGE_BYTES
    _assert_wire_safe(raw)


@pytest.mark.parametrize("key", ["", "a:b", "A", "a b", "a\n", "a\r\nBcc: x", 'a"', "k" * 65, "é"])
def test_a_key_that_could_not_stand_in_a_header_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        build(PLAIN, CONTENT, JANE, key, DATE)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "plans.example",
        "javascript:x",
        "https://a b",
        "https://a>",
        "https://a\r\nBcc: x",
        "https://é",
        "https://" + "a" * 901,
        "mailto:a b@example.org",
        "mailto:a@example.org\r\nBcc: x",
    ],
)
def test_an_url_that_could_not_stand_in_a_header_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        build(PLAIN, CONTENT, JANE, KEY, DATE, unsubscribe=[url])


def test_one_click_is_promised_only_over_https() -> None:
    message = _read(build(PLAIN, CONTENT, JANE, KEY, DATE, unsubscribe=["http://localhost/u"]))
    assert message["List-Unsubscribe"] == "<http://localhost/u>"
    assert "List-Unsubscribe-Post" not in message


def test_a_date_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        build(PLAIN, CONTENT, JANE, KEY, DATE.replace(tzinfo=None))


@given(
    st.sampled_from(["", "Anna", "Müller, Anna", '"', "\\", "é" * 100, "a b " * 25, "=?utf-8?q?x?="]),
    st.lists(st.builds(Mailbox, st.sampled_from(["", "Help", "Ünal", "é" * 90]), st.just(JANE)), max_size=10),
)
def test_the_name_and_the_answers_of_one_message(name: str, answers: list[Mailbox]) -> None:
    defaults = MessageDefaults(PLAIN.sender, reply_to=(parse_mailbox("help@plans.example"),))
    raw = build(defaults, CONTENT, JANE, KEY, DATE, sender_name=name, reply_to=tuple(answers))
    message = _read(raw)
    assert message.keys() == [*HEADERS[:5], "Reply-To", *HEADERS[5:]]
    assert [str(address.addr_spec) for address in message["From"].addresses] == ["no-reply@plans.example"]
    assert _display_name(raw, "From") == (name.strip() or "Date Plans")
    expected = [str(mailbox.address) for mailbox in answers] or ["help@plans.example"]
    assert [address.addr_spec for address in message["Reply-To"].addresses] == expected
    assert max(map(len, raw.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 78


def test_a_long_header_of_the_operators_is_folded_and_kept() -> None:
    value = " ".join(f'"key{n}":  "{"x" * (n % 40)}",' for n in range(70))
    assert 2000 < len(value) < 3000
    raw = build(MessageDefaults(PLAIN.sender, headers={"X-MSYS-API": value}), CONTENT, JANE, KEY, DATE)
    assert _read(raw)["X-MSYS-API"] == value
    assert max(map(len, raw.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 78


# What is expected is spelled out here a second time, slowly, so that the two can disagree.


def _read(raw: bytes) -> EmailMessage:
    _assert_wire_safe(raw)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects
        for _, value in part.items():
            assert not value.defects
    return message


def _assert_wire_safe(raw: bytes) -> None:
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", raw)
    assert raw.endswith(b"\r\n")
    assert b"\r\n.\r\n" not in raw
    assert raw.isascii()
    assert not set(raw) & ({*range(0x20), 0x7F} - {*b"\t\r\n"})
    head, _, body = raw.partition(b"\r\n\r\n")
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert max(map(len, body.split(b"\r\n"))) <= 76


def _display_name(raw: bytes, header: str) -> str:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    if "=?" not in str(email.message_from_bytes(raw)[header]):
        return str(message[header].addresses[0].display_name)
    # The newer parser puts a space between two encoded words of a name, which RFC 2047 6.2 forbids.
    decoded = str(make_header(decode_header(email.message_from_bytes(raw)[header])))
    return decoded.rpartition(" <")[0]


def _assert_says(message: EmailMessage, content: Content) -> None:
    assert message["Subject"] == _one_line(content.subject)[:200].rstrip(" ")
    if content.html is None:
        assert message.get_content() == _lines(content.text)
        return
    text, html = message.iter_parts()
    assert [text.get_content_type(), html.get_content_type()] == ["text/plain", "text/html"]
    assert text.get_content() == _lines(content.text)
    assert html.get_content() == _lines(content.html)


def _one_line(text: str) -> str:
    marks = {*"\u061c\u200e\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    result = ""
    for char in text:
        if char in " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029":
            result += "" if result.endswith(" ") else " "
        elif unicodedata.category(char) not in {"Cc", "Cs"} and char not in marks:
            result += char
    return result.strip(" ")


def _lines(text: str) -> str:
    kept = "".join(char for char in text if char in "\t\r\n" or unicodedata.category(char) not in {"Cc", "Cs"})
    lines = re.split("\r\n|\r|\n", kept)
    if lines[-1] == "":
        lines.pop()
    return "".join(f"{line}\r\n" for line in lines or [""])


CALENDAR = "BEGIN:VCALENDAR\r\nSUMMARY:é=_\r\n .\r\nEND:VCALENDAR\r\n"


@pytest.mark.parametrize("html", ["<p>x</p>\n", None])
def test_a_calendar_is_the_last_alternative_and_an_attachment(html: str | None) -> None:
    raw = build(PLAIN, Content("s", "x\n", html, CALENDAR), JANE, KEY, DATE)
    _assert_wire_safe(raw)
    message = _read(raw)
    alternative, attachment = message.iter_parts()
    *words, calendar = alternative.iter_parts()  # type: ignore[attr-defined]
    assert [part.get_content_type() for part in (message, alternative, *words, calendar, attachment)] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        *(["text/html"] if html else []),
        "text/calendar",
        "application/ics",
    ]
    assert [part.get_content() for part in words] == ["x\r\n", *(["<p>x</p>\r\n"] if html else [])]
    assert calendar.get_content() == CALENDAR
    assert dict(calendar["Content-Type"].params) == {"method": "PUBLISH", "charset": "utf-8"}
    assert attachment.get_content() == CALENDAR.encode()
    assert (attachment.get_content_disposition(), attachment.get_filename()) == ("attachment", "invite.ics")
    assert not any(part.defects for part in message.walk())


def test_a_calendar_counts_towards_the_limit() -> None:
    with pytest.raises(BadData) as caught:
        build(PLAIN, Content("s", "x", None, "x" * 500_000), JANE, KEY, DATE)
    assert caught.value.reason == "too_large"
