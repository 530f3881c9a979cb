"""The headers of an operator: which names and values are taken, and what is said of the others."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from listener.config.headers import Headers, check_name, duplicates, fold_points
from listener.config.settings import load
from listener.mail.headers import folded
from tests.support.settings import loaded, refused

OWN = [
    "From", "To", "Cc", "BCC", "Sender", "Subject", "Date", "Message-ID", "Return-Path", "MIME-Version", "content-type",
    "Content-X", "List-Unsubscribe", "List-Unsubscribe-Post", "Auto-Submitted", "X-Auto-Response-Suppress", "Reply-To",
    "DKIM-Signature", "ARC-Seal", "Received", "Resent-To", "resent-bcc", "Delivered-To", "X-Original-To",
    "Authentication-Results",
]  # fmt: skip
TYPE = TypeAdapter[dict[str, str]](Headers)


def test_the_headers_of_providers() -> None:
    headers = loaded(
        """
        [mail.headers]
        X-PM-Message-Stream = "outbound"
        X-SES-CONFIGURATION-SET = "plans"
        Feedback-ID = "verified:plans:pgherald:example"
        X-MSYS-API = '{"campaign_id": "plans",  "options": {"open_tracking": false}}'
        "X_Odd!Name" = " padded "
        """
    ).mail.headers
    assert headers == {
        "X-PM-Message-Stream": "outbound",
        "X-SES-CONFIGURATION-SET": "plans",
        "Feedback-ID": "verified:plans:pgherald:example",
        "X-MSYS-API": '{"campaign_id": "plans",  "options": {"open_tracking": false}}',
        "X_Odd!Name": "padded",
    }


@pytest.mark.parametrize("name", OWN)
def test_a_header_of_pgherald_or_of_a_server_is_refused(name: str) -> None:
    said = refused(f"[mail.headers]\n{name} = 'x'")
    assert said.startswith(f"pgherald.toml: [mail.headers] {name}: pgherald or a mail server sets this header; ")
    with pytest.raises(ValueError, match="sets this header"):
        check_name(name.swapcase())


def test_the_key_that_sets_a_header_is_named() -> None:
    assert refused("[mail.headers]\nreply-to = 'x'").endswith("; use [mail] reply_to")
    assert refused("[mail.headers]\nBcc = 'x'").endswith("; remove it from here")
    said = refused("[mail]\nidempotency_header = 'Message-ID'")
    assert said.startswith("pgherald.toml: [mail] idempotency_header: pgherald or a mail server sets")


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nBcc", "X\n", "é", "X\0", "X" * 65])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a header; write"):
        check_name(name)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("''", "is empty; "),
        ("'   '", "is empty; "),
        (r'"a\r\nBcc: evil@example.org"', "has a line break or another control character; "),
        (r'"a\nb"', "has a line break"),
        (r'"a\tb"', "has a line break"),
        (r'"a\u0000"', "has a line break"),
        (r'"a\u007F"', "has a line break"),
        ("'café'", r"is not ASCII; write \u00fc in JSON"),
        (r'"a\u2028b"', "is not ASCII"),
        ("'" + "x" * 901 + "'", "has more than 900 characters without a space"),
        ("'a" + " " * 901 + "b'", "has more than 900 characters without a space"),
        ("3", "must be text in quotes, got a number"),
    ],
    ids=range(12),
)
def test_a_value_that_cannot_be_a_header_is_refused(value: str, said: str) -> None:
    assert refused(f"[mail.headers]\nX-Place = {value}").startswith(f"pgherald.toml: [mail.headers] X-Place: {said}")


def test_headers_are_checked_together() -> None:
    assert "[mail] headers: X-A and x-a are the same header; remove one" in refused(
        "[mail.headers]\nX-A = '1'\nx-a = '2'"
    )
    said = refused("[mail]\nidempotency_header = 'X-A'\n[mail.headers]\nx-a = '1'")
    assert said == "pgherald.toml: [mail]: idempotency_header X-A is in [mail.headers] too; remove it there"
    many = "\n".join(f"X-{n} = '{'x ' * 400}'" for n in range(26))
    assert "characters together; at most 20000 are allowed" in refused(f"[mail.headers]\n{many}")
    assert "must be a section, got a list; write [mail.headers] on a line" in refused("[mail]\nheaders = []")
    assert duplicates(["a", "b", "A"]) == ["a", "A"]


def test_the_environment_has_one_header_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHERALD_MAIL_HEADERS", 'X-PM-Message-Stream: outbound\r\n\nX-MSYS-API:{"a": 1, "b": 2}\n')
    expected = {"X-PM-Message-Stream": "outbound", "X-MSYS-API": '{"a": 1, "b": 2}'}
    assert load().mail.headers == expected
    assert loaded("[mail.headers]\nX-Other = 'x'").mail.headers == expected
    for text, said in (
        ("X-A", "[mail] headers: has a line without a colon; write Name: value, one header a line"),
        ("X-A: 1\nX-A: 2", "[mail] headers: has X-A twice; remove one"),
        ("X-A: 1\n folded: 2", "[mail.headers]  folded: is not the name of a header"),
        ("Bcc: x@example.org", "[mail.headers] Bcc: pgherald or a mail server sets"),
    ):
        monkeypatch.setenv("PGHERALD_MAIL_HEADERS", text)
        assert refused().startswith(f"environment, PGHERALD_MAIL_HEADERS: {said}")


@given(st.dictionaries(st.text(max_size=70), st.text(max_size=300) | st.text("ab ", max_size=2500), max_size=3))
def test_what_is_taken_is_one_header_with_short_lines(headers: dict[str, str]) -> None:
    try:
        taken = TYPE.validate_python(headers)
    except ValidationError:
        return
    for name, value in taken.items():
        assert " ".join(fold_points(value)) == value
        field = folded(name, value)
        assert max(map(len, field.split("\r\n"))) <= 998
        assert not re.search(r"\r(?!\n)|(?<!\r)\n|\r\n(?! +[^ \r])|[^ -~\r\n]", field)
