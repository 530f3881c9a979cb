"""The key in a Message-ID: the same for an event for ever, another for each event, and readable back to the event."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.message_id import header_value, make_message_id, read_message_id

DATE = datetime(2026, 11, 22, 9, 5, 7, 123456, tzinfo=UTC)
SECRET = b"secret"
KEY = make_message_id(SECRET, "dateplan_verified", 42, DATE)
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
BIGINTS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda: make_message_id(b"other", "dateplan_verified", 42, DATE),
        lambda: make_message_id(b"x" * 65, "dateplan_verified", 42, DATE),
        lambda: make_message_id(SECRET, "rule2", 42, DATE),
        lambda: make_message_id(SECRET, "dateplan_verified", 43, DATE),
        lambda: make_message_id(SECRET, "dateplan_verified", 42, DATE + timedelta(microseconds=1)),
    ],
)
def test_a_key_depends_on_all_it_is_made_of(change: Callable[[], str]) -> None:
    other = change()
    assert other != KEY
    # Nothing is shared, as it would be if the block were written without the cipher.
    assert sum(a == b for a, b in zip(other, KEY, strict=True)) < 10


def test_a_key_is_the_same_in_every_release_and_time_zone() -> None:
    there = DATE.astimezone(timezone(timedelta(hours=5)))
    assert make_message_id(SECRET, "dateplan_verified", 42, there) == KEY == "3ebqgcaxgzk6rhfw3qteqncekm"


@given(st.binary(max_size=200), st.text(), BIGINTS)
def test_a_key_is_26_harmless_characters_and_leads_back(secret: bytes, rule: str, event_id: int) -> None:
    key = make_message_id(secret, rule, event_id, DATE)
    assert re.fullmatch(r"[a-z2-7]{26}", key)
    assert read_message_id(secret, key) == (key, event_id)
    assert read_message_id(secret + b"x", key) is None


def test_a_key_for_a_time_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        make_message_id(SECRET, "rule", 1, DATE.replace(tzinfo=None))


def test_a_key_of_which_one_character_differs_is_not_ours() -> None:
    for place in range(len(KEY)):
        for letter in ALPHABET.replace(KEY[place], ""):
            assert read_message_id(SECRET, KEY[:place] + letter + KEY[place + 1 :]) is None


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY.upper(),
        f"{KEY}@example.org",
        header_value(KEY, "example.org"),
        f" <{KEY}@EXAMPLE.ORG> \n",
        f"<{KEY}@example.org>.",
        f"{KEY}.",
        f"Message-ID: <{KEY}@example.org>",
        f"MAIL FROM:<no-reply@example.org> SIZE=4711 RET=HDRS ENVID={KEY}",
        f"postfix/cleanup[7]: 4F1: message-id=<{KEY}@example.org>",
        f"1tGq3x-0000 <= no-reply@example.org H=host S=4711 id={KEY}@example.org",
        f"<{KEY[:13]}\r\n {KEY[13:]}@example.org>",
        f"in-reply-to: <{'a' * 26}@elsewhere.example> <{KEY}@example.org>",
        f"new/{KEY}.eml",
        f'{{"message-id":"\\u003c{KEY}@example.org\\u003e"}}',
        f"https://mail.example.org/log?message-id=%3C{KEY}%40example.org%3E",
        f"=3C{KEY}=40example.org=3E",
    ],
)
def test_a_key_is_found_in_the_forms_that_people_copy(text: str) -> None:
    assert read_message_id(SECRET, text) == (KEY, 42)


@pytest.mark.parametrize(
    "text",
    ["", "<>", "42", "jane@example.org", KEY[:-1], f"{KEY}a", f"a{KEY}", f"{KEY}8", "é" * 26, "a" * 26, "7" * 26],
)
def test_any_other_text_has_no_key(text: str) -> None:
    assert read_message_id(SECRET, text) is None


@given(st.text(ALPHABET, min_size=26, max_size=26))
def test_a_key_that_was_made_up_is_not_ours(text: str) -> None:
    assert read_message_id(SECRET, text) is None
