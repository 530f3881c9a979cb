"""Tokens: what goes in comes out, nobody else can make one, and the page tells applications how to read them."""

import base64
import re
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


@given(RULES, KEYS)
@example("dateplan_verified", "{eu,7}")
@example("r", "a:b.c")
def test_a_token_is_read_back_by_us_and_as_documented(rule: str, key: str) -> None:
    token = make_token(KEY, Subscription(rule, key))
    assert token is not None
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,600}", token)
    assert read_token(KEY, token) == Subscription(rule, key)
    assert READ_AS_DOCUMENTED(KEY.decode(), token) == (rule, key)


def test_a_token_stays_the_same_in_every_release() -> None:
    # They are in mails that people keep for years.
    token = "v1.ZGF0ZXBsYW5fdmVyaWZpZWQ6NDcxMQ.aBOdfpIsyMIBcOVrn6ypXw"
    assert make_token(KEY, Subscription("dateplan_verified", "4711")) == token
    assert read_token(KEY, token) == Subscription("dateplan_verified", "4711")


TOKEN = make_token(KEY, Subscription("dateplan_verified", "4711")) or ""
_, PAYLOAD, SIGNATURE = TOKEN.split(".")
OTHER = base64.urlsafe_b64encode(b"dateplan_verified:4712").decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "v1",
        "v1..",
        f"v1.{PAYLOAD}",
        f"v1.{PAYLOAD}.",
        f"v1.{OTHER}.{SIGNATURE}",
        f"v2.{PAYLOAD}.{SIGNATURE}",
        f"{PAYLOAD}.{SIGNATURE}",
        f"v1.{PAYLOAD}=.{SIGNATURE}",
        f"{TOKEN}=",
        f"{TOKEN}.",
        f" {TOKEN}",
        f"{TOKEN}\n",
        TOKEN.lower(),
        # Its last two bits are padding; another spelling of the same octets is another token.
        f"v1.{PAYLOAD}.{SIGNATURE[:-1]}x",
        f"v1.{PAYLOAD}.é",
        f"v1.\ud800.{SIGNATURE}",
        f"v1.{PAYLOAD}.{'A' * 22}",
        f"v1.{'A' * 5000}.{SIGNATURE}",
    ],
)
def test_what_was_not_made_here_is_nothing(token: str) -> None:
    assert read_token(KEY, token) is None


@given(st.text(max_size=200))
def test_any_text_is_read_as_nothing(token: str) -> None:
    assert read_token(KEY, token) is None
    assert read_token(KEY, f"v1.{token}.{SIGNATURE}") is None


def test_another_database_makes_other_tokens() -> None:
    assert read_token(signing_key(b"another"), TOKEN) is None


def test_a_key_too_long_for_an_address_has_none() -> None:
    assert make_token(KEY, Subscription("rule", "x" * 1000)) is None
