"""Transports without a server keep to the order of one with a server: permission, the message, the outcome."""

from pathlib import Path

import pytest

from listener.address import parse_address
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted, NotPermitted, NotSent, SendOutcome
from listener.smtp.sending import Sending
from listener.transport.base import Transport
from listener.transport.local import Console, Maildir

JANE = parse_address("jane@example.org")
HERALD = parse_address("herald@example.org")
MESSAGE = b"To: jane@example.org\r\nSubject: hello\r\n\r\nhello =C3=A9\r\n"
KEY = "k" * 26


async def hand_over(transport: Transport, *, permitted: bool = True, message: bytes = MESSAGE) -> SendOutcome:
    async def permission() -> bool:
        return permitted

    return await transport.send(Sending(HERALD, JANE, message, permission, KEY))


async def test_nothing_is_written_before_or_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for transport in (Maildir(tmp_path / "box", Breaker()), Console(Breaker())):
        assert await hand_over(transport, permitted=False) == NotPermitted()

        async def permission() -> bool:
            assert not (tmp_path / "box").exists()
            assert capsys.readouterr().out == ""
            return True

        assert isinstance(await transport.send(Sending(HERALD, JANE, MESSAGE, permission, KEY)), Accepted)
        if (tmp_path / "box").exists():
            (tmp_path / "box").rename(tmp_path / "away")


async def test_a_message_written_again_is_one_message(tmp_path: Path) -> None:
    # As after a crash between the rename and the outcome: the same bytes, under the same key.
    for _ in range(2):
        assert isinstance(await hand_over(Maildir(tmp_path, Breaker())), Accepted)
    [file] = (tmp_path / "new").iterdir()
    assert file.name == f"{KEY}.eml"
    envelope = b"Return-Path: <herald@example.org>\r\nDelivered-To: jane@example.org\r\n"
    assert file.read_bytes() == envelope + MESSAGE
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_what_a_crash_left_half_written_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / f"{KEY}.eml").write_bytes(b"half")
    assert isinstance(await hand_over(Maildir(tmp_path, Breaker())), Accepted)
    assert (tmp_path / "new" / f"{KEY}.eml").read_bytes().endswith(MESSAGE)


async def test_a_maildir_is_the_daemons_alone_and_follows_no_link(tmp_path: Path) -> None:
    assert isinstance(await hand_over(Maildir(tmp_path / "box", Breaker())), Accepted)
    made = [tmp_path / "box", *(tmp_path / "box").rglob("*")]
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in made} == {(True, 0o700), (False, 0o600)}
    (tmp_path / "victim").mkdir()
    for laid in ("linked", "first/tmp", "second/new", "third/cur"):
        (tmp_path / laid).parent.mkdir(exist_ok=True)
        (tmp_path / laid).symlink_to(tmp_path / "victim")
        outcome = await hand_over(Maildir(tmp_path / laid.partition("/")[0], Breaker()))
        assert isinstance(outcome, NotSent)
        assert "is a symbolic link" in outcome.detail
    assert list((tmp_path / "victim").iterdir()) == []


async def test_a_folder_that_fails_is_trouble_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "box").write_text("in the way")
    breaker = Breaker()
    for _ in range(5):
        outcome = await hand_over(Maildir(tmp_path / "box", breaker))
        assert isinstance(outcome, NotSent)
        assert not outcome.verdict.uses_attempt
    assert breaker.is_open
    (tmp_path / "box").unlink()
    assert isinstance(await hand_over(Maildir(tmp_path / "box", breaker)), Accepted)
    assert not breaker.is_open


async def test_the_screen_shows_what_a_person_reads(capsys: pytest.CaptureFixture[str]) -> None:
    message = b"To: jane@example.org\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nContent-Type: text/plain; charset=utf-8\r\n"
    message += b"Content-Transfer-Encoding: quoted-printable\r\n\r\nhello =C3=A9\r\n"
    assert isinstance(await hand_over(Console(Breaker()), message=message), Accepted)
    assert capsys.readouterr().out.splitlines()[1:] == ["To: jane@example.org", "Subject: café", "", "hello é"]


async def test_no_message_drives_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    message = "To: jane@example.org\r\nSubject: =?utf-8?q?=1B]0;x=07=E2=80=AE?=\r\nContent-Type: text/plain; charset=utf-8\r\n"
    message += "Content-Transfer-Encoding: 8bit\r\n\r\n\x1b[31mone\x9b1m\u202e\r\ntwo\r\n"
    assert isinstance(await hand_over(Console(Breaker()), message=message.encode()), Accepted)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "Subject: \ufffd]0;x\ufffd\ufffd",
        "",
        "\ufffd[31mone\ufffd1m\ufffd",
        "two",
    ]
