"""JSON of strangers, and tokens."""

import pytest

from listener.bounces.providers.webhook import Forged, check_token, parse, parse_object, text_of
from listener.bounces.report import BadReport
from tests.support.webhooks import TOKEN, basic, webhook


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1,]", b'{"a": 1} x', b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}', "{}".encode("utf-16"),
        b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "a": 1}}]', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000,
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_json_of_ours(body: bytes) -> None:
    with pytest.raises(BadReport, match=r"^the body is not valid JSON$"):
        parse(body)


@pytest.mark.parametrize("body", ["[]", "1", "null", '"text"', "NaN"])
def test_no_object(body: str) -> None:
    with pytest.raises(BadReport, match="not an event"):
        parse_object(body)


def test_text_is_of_texts_only_and_short() -> None:
    assert text_of("a", None, 1, "", ["x"], "b") == "a b"
    assert len(text_of("x" * 5000)) == 1000


@pytest.mark.parametrize("header", [basic(), f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic().replace("Basic", "BASIC")])
def test_the_token_in_a_header(header: str) -> None:
    check_token(webhook({}, Authorization=header), TOKEN)


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Basic", "Basic =", "Basic \udcff", f"Basic {TOKEN}", f"Token {TOKEN}", TOKEN, basic(""),
        basic(TOKEN[:-1]), basic(f"{TOKEN}x"), f"Bearer {TOKEN.upper()}", f"Bearer pgherald:{TOKEN}", "Bearer \udcff",
    ],
)  # fmt: skip
def test_another_token(header: str) -> None:
    with pytest.raises(Forged) as refused:
        check_token(webhook({}, Authorization=header), TOKEN)
    assert TOKEN not in str(refused.value)


def test_no_header() -> None:
    with pytest.raises(Forged):
        check_token(webhook({}), TOKEN)
