"""Tokens: what goes in comes out, nobody else can make one, and the page tells applications how to read them."""

import base64
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.mail.unsubscribe import Subscription, make_token, read_token, signing_key

KEY = signing_key(b"0123456789abcdef0123456789abcdef")
PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
RULES = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)
KEYS = st.text(st.characters(codec="utf-8"), max_size=80)


def documented_reader() -> Any:
    [source] = re.findall(r"```python\n(.*?def read_token.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    return names["read_token"]


READ_AS_DOCUMENTED = documented_reader()


@given(RULES, KEYS, st.sampled_from(["", "de", "zh-hant-tw"]), st.text(st.characters(codec="utf-8"), max_size=12))
@example("dateplan_verified", "{eu,7}", "", "")
@example("r", "a:b.c", "de", "7:8%3A")
def test_a_token_is_read_back_by_us_and_as_documented(rule: str, key: str, language: str, person: str) -> None:
    token = make_token(KEY, Subscription(rule, key, language, person))
    assert token is not None
    assert re.fullmatch(r"[a-z0-9]{1,600}", token)
    assert read_token(KEY, token) == Subscription(rule, key, language, person)
    assert READ_AS_DOCUMENTED(KEY.decode(), token) == (rule, key, person)


def test_a_token_stays_the_same_in_every_release() -> None:
    # They are in mails that people keep for years.
    token = "v1mrqxizlqnrqw4x3wmvzgsztjmvsduzdfhi5dinzrge0bxwtm6xkfkcap3lucagz2czwzu"
    assert make_token(KEY, Subscription("dateplan_verified", "4711", "de")) == token
    assert read_token(KEY, token) == Subscription("dateplan_verified", "4711", "de")


SUBSCRIPTION = Subscription("dateplan_verified", "4711", "de")
TOKEN = make_token(KEY, SUBSCRIPTION) or ""
PAYLOAD, SIGNATURE = TOKEN.removeprefix("v1").split("0")
OTHER = base64.b32encode(b"dateplan_verified:de::4712").decode().rstrip("=").lower()


@pytest.mark.parametrize(
    "behind",
    [
        ".", ",", ";", ":", "!", "...", ")", "]", "}", ">", "&gt;", "&gt", "&quot;", "&amp;gt;", '"', "'", "”", "»", "*", "_", "|",
        "\\", "/", "//", "=", "=3D", "=20", "=\r\n", "\r\n", " ", "%20", "%3E", "%253E", "%0D%0A", "\u00ad", "\u200b",
        "\ufeff", "\u00a0", "&nbsp;", "&#8203;", "&shy;", "?utm_source=mail&x=y", "?", "#x", ".Thanks", ">Unsubscribe</a>",
        "](https://mail.example.org/)", "\ufffd", "\x00", ". v1", "%", "%zz", "=zz",
    ],
)  # fmt: skip
def test_signs_behind_or_before_a_token_are_ignored(behind: str) -> None:
    assert read_token(KEY, f"{TOKEN}{behind}") == SUBSCRIPTION
    if not behind.isalnum() and "v1" not in behind:
        assert read_token(KEY, f"{behind}{TOKEN}") == SUBSCRIPTION


@pytest.mark.parametrize(
    "within",
    [
        " ", "\t", "\r\n", "\r\n ", "\n> ", "\n>> ", "%20", "%0D%0A", "+", "=\r\n", "=", "=0D=0A", "=20", "=C2=AD", "\u00ad",
        "&shy;", "\u200b", "&ZeroWidthSpace;", "&#8203;", "\u2060", "\ufeff", "%E2%80%8B", "%C2%AD", "%AD", "\ufffd", "?", "-", ".",
    ],
)  # fmt: skip
def test_signs_within_a_token_are_ignored_wherever_they_are(within: str) -> None:
    for at in range(1, len(TOKEN)):
        assert read_token(KEY, f"{TOKEN[:at]}{within}{TOKEN[at:]}") == SUBSCRIPTION, at
    lines = within.join(TOKEN[at : at + 20] for at in range(0, len(TOKEN), 20))
    assert read_token(KEY, lines) == SUBSCRIPTION


def test_long_parameters_behind_a_token_are_ignored() -> None:
    assert read_token(KEY, f"{TOKEN}?{'utm_source=mail&' * 400}") == SUBSCRIPTION


def test_the_case_of_a_token_does_not_matter() -> None:
    assert read_token(KEY, TOKEN.upper()) == SUBSCRIPTION
    assert read_token(KEY, TOKEN.title()) == SUBSCRIPTION
    # As a Turkish locale writes it.
    assert read_token(KEY, TOKEN.upper().replace("I", "\u0130")) == SUBSCRIPTION


def test_an_application_that_reads_as_documented_repairs_most_damage_too() -> None:
    for damaged in (
        f"{TOKEN}.",
        TOKEN.upper(),
        f"{TOKEN[:30]}=\r\n{TOKEN[30:]}",
        f"unsubscribe-{TOKEN}",
        f"{TOKEN}&gt;",
    ):
        assert READ_AS_DOCUMENTED(KEY.decode(), damaged) == ("dateplan_verified", "4711", "")
    assert READ_AS_DOCUMENTED(KEY.decode(), TOKEN[:-1]) is None
    assert READ_AS_DOCUMENTED(KEY.decode(), f"{TOKEN[:-2]}xx") is None


def test_a_token_that_was_cut_is_nothing() -> None:
    for at in range(len(TOKEN)):
        assert read_token(KEY, TOKEN[:at]) is None
        assert read_token(KEY, f"{TOKEN[:at]}. Thanks, and see you soon") is None
        assert at == 0 or read_token(KEY, TOKEN[at:]) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "v1",
        "v10",
        f"v1{PAYLOAD}",
        f"v1{PAYLOAD}0",
        f"v10{SIGNATURE}",
        f"v1{OTHER}0{SIGNATURE}",
        f"v2{PAYLOAD}0{SIGNATURE}",
        f"{PAYLOAD}0{SIGNATURE}",
        f"v1{PAYLOAD}a0{SIGNATURE}",
        f"v1{PAYLOAD}0{SIGNATURE[:-1]}",
        f"v1{PAYLOAD}0{SIGNATURE[:-2]}{SIGNATURE[-1]}",
        f"v1{PAYLOAD}0{'a' * 26}",
        f"v1{'a' * 5000}0{SIGNATURE}",
        f"{' ' * 2400}{TOKEN}",
        "v1" * 1200,
        "&" * 2400,
        "=41" * 800,
        "%" * 2400,
    ],
)
def test_what_was_not_made_here_is_nothing(token: str) -> None:
    assert read_token(KEY, token) is None


@given(st.text(max_size=200))
def test_any_text_is_read_as_nothing(token: str) -> None:
    assert read_token(KEY, token) is None
    assert read_token(KEY, f"v1{token}0{SIGNATURE}") is None


def test_junk_is_cheap() -> None:
    started = time.perf_counter()
    for junk in (
        "v1" + "a" * 2398,
        "&gt" * 800,
        "=41" * 800,
        "%41" * 800,
        "v1a0" * 600,
        "\U0001f389" * 2400,
        "x" * 8000,
    ):
        for _ in range(20):
            read_token(KEY, junk)
    # A millisecond each would be many times what it takes.
    assert time.perf_counter() - started < 7 * 20 * 0.02


def test_another_database_makes_other_tokens() -> None:
    assert read_token(signing_key(b"another"), TOKEN) is None


def test_a_key_too_long_for_an_address_has_none() -> None:
    assert make_token(KEY, Subscription("rule", "x" * 1000)) is None
