"""Header fields: one field a text, whatever is in it, encoded and folded as RFC 2047 and RFC 5322 want it."""

from datetime import UTC, datetime, timedelta, timezone
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.address import parse_mailbox
from listener.mail.headers import date_time, folded, list_unsubscribe, one_line, originators, unstructured, utc


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\nBcc: b", "a Bcc: b"),
        ("  a \t\u2028 b\x85", "a b"),
        ("a\x00\x1b[31m\u202eb\ud800", "a[31mb"),
        ("\r\n", ""),
        ("日本 🎉", "日本 🎉"),
    ],
)
def test_a_text_becomes_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@given(st.text(max_size=300))
def test_a_field_is_read_back_and_no_line_of_it_begins_another(text: str) -> None:
    field = unstructured("Subject", text)
    first, *more = field.split("\r\n")
    assert first.startswith("Subject: ")
    assert all(line.startswith(" ") and line.strip() for line in more)
    assert field.isascii()
    value = field.removeprefix("Subject: ").replace("\r\n", "")
    assert str(make_header(decode_header(value))) == one_line(text)


@pytest.mark.parametrize("text", ["é" * 100, "word " * 40, "🎉" * 60, "=?utf-8?q?x?= é"])
def test_no_line_is_longer_than_76_characters(text: str) -> None:
    assert max(map(len, unstructured("Subject", text).split("\r\n"))) <= 76


@pytest.mark.parametrize(
    ("mailbox", "field"),
    [
        ("no-reply@example.org", "From: no-reply@example.org"),
        ("Date Plans <a@example.org>", "From: Date Plans <a@example.org>"),
        ('"Plans, Date" <a@example.org>', 'From: "Plans, Date" <a@example.org>'),
        ("Café <a@example.org>", "From: =?utf-8?q?Caf=C3=A9?= <a@example.org>"),
    ],
)
def test_an_originator(mailbox: str, field: str) -> None:
    assert originators("From", parse_mailbox(mailbox)) == field


def test_several_originators() -> None:
    mailboxes = map(parse_mailbox, ["a@example.org", "Café <b@example.org>", '"Plans, Date" <c@example.org>'])
    assert originators("Reply-To", *mailboxes) == (
        'Reply-To: a@example.org, =?utf-8?q?Caf=C3=A9?= <b@example.org>, "Plans,\r\n Date" <c@example.org>'
    )


@given(st.lists(st.text("ab {}:,=", min_size=1, max_size=90), max_size=30))
def test_a_value_that_is_folded_is_read_back_as_it_was(words: list[str]) -> None:
    value = "  ".join(words).strip()
    first, *more = folded("X-MSYS-API", value).split("\r\n")
    assert "".join([first, *more]) == f"X-MSYS-API: {value}"
    assert all(line.startswith(" ") and line.strip() for line in more)


def test_unsubscribe_is_one_click_only_over_https() -> None:
    assert list(list_unsubscribe([])) == []
    assert list(list_unsubscribe(["http://localhost/u"])) == ["List-Unsubscribe: <http://localhost/u>"]
    assert list(list_unsubscribe(["https://x.example/u"])) == [
        "List-Unsubscribe: <https://x.example/u>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ]
    with pytest.raises(ValueError, match="invalid unsubscribe URL"):
        list(list_unsubscribe(["https://x.example/a b"]))


def test_a_mailbox_to_unsubscribe_stands_behind_the_page_on_a_line_of_its_own() -> None:
    mailto = "mailto:stop@x.example?subject=unsubscribe-x"
    assert list(list_unsubscribe(["https://x.example/u", mailto])) == [
        f"List-Unsubscribe: <https://x.example/u>,\r\n <{mailto}>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ]
    assert list(list_unsubscribe([mailto])) == [f"List-Unsubscribe: <{mailto}>"]


def test_a_date_is_written_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))
    assert date_time(moment) == "Wed, 31 Dec 2025 20:02:03 +0000"
    assert utc(moment).tzinfo is UTC
    with pytest.raises(ValueError, match="no time zone"):
        utc(moment.replace(tzinfo=None))
