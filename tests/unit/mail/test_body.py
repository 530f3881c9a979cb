"""The body: the standard library decodes what was encoded, and no line can harm a server."""

import email
import email.policy
import quopri

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.mail.body import multipart, part


def encoded(text: str) -> bytes:
    head, _, content = part("text/plain", text).partition(b"\r\n\r\n")
    assert b"text/plain" in head
    return content


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t. ="), max_size=300))
@example("x" * 74 + " \n")
@example("x" * 75 + ".")
@example(".\n.\n")
@example("")
def test_a_text_is_read_back(text: str) -> None:
    content = encoded(text)
    lines = content.split(b"\r\n")
    assert lines[-1] == b""
    assert max(map(len, lines)) <= 76
    assert b"." not in lines, "a dot alone would end the message"
    expected = text if text.endswith("\n") else f"{text}\n"
    assert quopri.decodestring(content.replace(b"\r\n", b"\n")).decode() == expected


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a\rb\r\nc\n", b"a\r\nb\r\nc\r\n"),
        ("a\x00\x1b[31mb\x85c\x7f", b"a[31mbc\r\n"),
        ("a\ud800b", b"ab\r\n"),
        ("é=", b"=C3=A9=3D\r\n"),
    ],
)
def test_line_ends_become_crlf_and_controls_are_removed(text: str, content: bytes) -> None:
    assert encoded(text) == content


def test_the_boundary_is_in_no_part() -> None:
    raw = b"MIME-Version: 1.0\r\n" + multipart(
        b"alternative", b"k", part("text/plain", "--=_k--"), part("text/html", "<p>--=_k</p>")
    )
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    text, html = message.iter_parts()  # type: ignore[attr-defined]
    assert (text.get_content(), html.get_content()) == ("--=_k--\r\n", "<p>--=_k</p>\r\n")
