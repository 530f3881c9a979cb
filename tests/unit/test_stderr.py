"""A stream whose reader is away blocks and fails nobody, and the journal gets the level of each line."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from listener import stderr
from listener.stderr import BackgroundStream, is_journal, lost_lines, with_priority
from tests.support import wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_lines(reader: int, last: str) -> list[str]:
    text = ""
    while last not in text:
        text += os.read(reader, 65536).decode()
    return text.splitlines()


def test_lines_arrive_in_order_and_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = BackgroundStream(writer, lambda lines: None)
    for number in range(300):
        stream.write(f"line {number} Zürich \udcff\n")
    assert read_lines(reader, "line 299 Zürich \\udcff\n") == [f"line {n} Zürich \\udcff" for n in range(300)]
    assert stream.drain()


def test_nobody_reads_and_what_is_lost_is_reported_once_somebody_does(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream: BackgroundStream
    stream = BackgroundStream(writer, lambda lines: (stream.write(f"lost {lines}\n"), None)[1])
    line = "x" * 999 + "\n"
    written = stderr._MAX_QUEUED_BYTES // len(line)
    began = time.monotonic()
    for _ in range(2 * written):
        stream.write(line)
    # A pipe takes 64 KiB, so that some more than the queue's size are kept.
    assert written <= stream.lost_lines <= written + 1
    assert not stream.drain(0.01)
    assert time.monotonic() - began < 30
    lines = read_lines(reader, "lost")
    assert len(lines) == 2 * written - stream.lost_lines + 1
    assert lines[-1] == f"lost {stream.lost_lines}"
    stream.write("again\n")
    assert read_lines(reader, "again") == ["again"]


def test_a_full_disk_fails_no_line_and_loses_none_of_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stderr, "_RETRY_INTERVAL_S", 0.01)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = BackgroundStream(descriptor, lambda lines: None)
    stream.write("first\n")
    assert not stream.drain(0.05)
    log = tmp_path / "log"
    with log.open("wb") as file:
        # There is space again: the same descriptor, as the thread sees it.
        os.dup2(file.fileno(), descriptor)
    stream.write("second\n")
    assert stream.drain(30)
    assert log.read_text() == "first\nsecond\n"
    os.dup2(os.open("/dev/null", os.O_WRONLY), descriptor)


def test_a_pipe_that_another_process_made_nonblocking(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream = BackgroundStream(writer, lambda lines: None)
    for number in range(200):
        stream.write(f"{number} {'x' * 999}\n")
    assert len(read_lines(reader, "199 x")) >= 199
    wait_until(lambda: stream.drain(0))


def test_as_sys_stderr(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    registered: list[object] = []
    monkeypatch.setattr(stderr.atexit, "register", registered.append)
    with os.fdopen(os.dup(writer), "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert lost_lines() == 0
        stderr.write_in_background(lambda lines: None)
        print("Grüße", file=sys.stderr)
        assert read_lines(reader, "\n") == ["Grüße"]
        assert isinstance(sys.stderr, BackgroundStream)
        assert (sys.stderr.isatty(), sys.stderr.writable(), lost_lines()) == (False, True, 0)
        assert registered == [sys.stderr.drain]
        assert sys.stderr.drain(30)
        os.dup2(writer, sys.stderr.fileno())


@pytest.mark.parametrize(("offset", "expected"), [(0, True), (1, False)])
def test_only_the_journals_own_stream_gets_priorities(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, offset: int, expected: bool
) -> None:
    with os.fdopen(os.dup(pipe[1]), "w") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setattr(sys, "stderr", file)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + offset}")
        assert is_journal() is expected
        text = "two\nlines"
        assert with_priority("warning", text) == ("<4>two\n<4>lines" if expected else text)


def test_a_stream_without_a_descriptor_is_no_journal(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr
    stderr.write_in_background(lambda lines: None)
    assert sys.stderr is before
    assert not is_journal()
