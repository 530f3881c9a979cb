"""All output of the commands goes through one place."""

import json

import pytest

from listener.cli.output import Screen, console, write_error, write_json, write_line, write_lines

HOSTILE = "\x1b]0;x\x07a\u202eb\nc"
SAFE = "\N{REPLACEMENT CHARACTER}]0;x\N{REPLACEMENT CHARACTER}a\N{REPLACEMENT CHARACTER}b"


def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_line(HOSTILE, mark="\x1b[32mok\x1b[0m ")
    assert capsys.readouterr().out == f"ok {SAFE}\N{REPLACEMENT CHARACTER}c\n"


def test_lines_keep_their_line_feeds(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(HOSTILE, err=True)
    assert capsys.readouterr() == ("", f"{SAFE}\nc\n")


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    write_error("first\n  second\tthird")
    assert capsys.readouterr() == ("", "Error: first second third\n")


def test_json_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": HOSTILE, "é": 1})
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "é" in out
    assert json.loads(out) == {"a": HOSTILE, "é": 1}


def test_a_screen_takes_no_markup_and_no_emoji_names(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(width=80).print("[red]a[/red] :warning: \x1b[31m")
    assert capsys.readouterr().out == "[red]a[/red] :warning: \N{REPLACEMENT CHARACTER}[31m\n"


def test_a_sentence_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("a reason of several words, " * 20 + "end")
    assert capsys.readouterr().out.count("\n") == 1
