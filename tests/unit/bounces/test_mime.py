"""The parts of an email, split with bounded work."""

import pytest

from listener.bounces.mime import COMPLAINT, find_report, octets_of, parse_headers, parse_part, text_of
from listener.bounces.report import BadReport


def multipart(*parts: bytes, boundary: bytes = b"b") -> bytes:
    pieces = b"".join(b"--" + boundary + b"\n" + part + b"\n" for part in parts)
    return (
        b'Content-Type: multipart/mixed; boundary="'
        + boundary
        + b'"\n\npreamble\n'
        + pieces
        + b"--"
        + boundary
        + b"--\n"
    )


STATUS = b"Content-Type: message/delivery-status\n\nAction: failed"
TEXT = b"Content-Type: text/plain\n\n--b is no delimiter\n--bb\nnor this"


def test_headers_end_at_the_first_empty_line_and_are_cut() -> None:
    part = parse_part(b"From MAILER-DAEMON Fri Nov 27\nSubject: a\r\n b\r\n\r\nText")
    assert (part.headers["Subject"], part.kind, part.body) == ("a\r\n b", "text/plain", b"Text")
    assert parse_part(b"\nText").headers.items() == []
    assert len(parse_headers(f"X: {'x' * 5000}\n")["X"]) == 2000
    assert parse_part(b"X: y").body == b""


@pytest.mark.parametrize(
    ("encoding", "body", "octets"),
    [
        ("base64", b"SGVsbG8=", b"Hello"),
        ("QUOTED-printable", b"H=65llo", b"Hello"),
        ("8bit", "Café".encode(), "Café".encode()),
        ("nonsense", b"Hello", b"Hello"),
        ("base64", b"SGVs\xffbG8=", b"Hello"),
    ],
)
def test_a_transfer_encoding(encoding: str, body: bytes, octets: bytes) -> None:
    assert octets_of(parse_part(f"Content-Transfer-Encoding: {encoding}\n\n".encode() + body)) == octets


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_the_parts_beside_a_report(line_end: bytes) -> None:
    found = find_report(parse_part(multipart(TEXT, STATUS).replace(b"\n", line_end)))
    assert found is not None
    part, beside = found
    assert (text_of(part), [each.kind for each in beside]) == (
        "Action: failed",
        ["text/plain", "message/delivery-status"],
    )
    assert text_of(beside[0]) == "--b is no delimiter\n--bb\nnor this"


def test_an_outer_report_comes_before_one_in_a_message() -> None:
    inner = b"Content-Type: message/rfc822\n\n" + multipart(STATUS, boundary=b"c")
    found = find_report(parse_part(multipart(inner, b"Content-Type: message/feedback-report\n\nFeedback-Type: abuse")))
    assert found is not None
    assert found[0].kind == COMPLAINT
    found = find_report(parse_part(multipart(TEXT, inner)))
    assert found is not None
    assert found[0].kind == "message/delivery-status"


def test_nothing_behind_the_last_delimiter_counts() -> None:
    assert find_report(parse_part(multipart(TEXT) + b"--b\n" + STATUS)) is None
    assert find_report(parse_part(b"Content-Type: multipart/mixed\n\n" + STATUS)) is None


@pytest.mark.parametrize("raw", [multipart(*[TEXT] * 61), b"Content-Type: message/rfc822\n\n" * 8])
def test_too_many_parts_or_levels(raw: bytes) -> None:
    with pytest.raises(BadReport, match="too many parts, or is nested too deeply; nothing changed"):
        find_report(parse_part(raw))
