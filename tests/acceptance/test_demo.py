"""The demo ends by itself, or when it is told to, and leaves nothing behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import wait_until
from tests.support.command import PROGRAM, Pgherald


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where it keeps its server; pytest's own folders are closed to that one's user."""
    with TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [PROGRAM, "demo", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_line(process: subprocess.Popen[bytes], words: str) -> None:
    assert process.stdout is not None
    assert any(words in line.decode() for line in process.stdout), f"it ended without saying {words!r}"


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_ends_by_itself(pgherald: Pgherald, folder: Path) -> None:
    done = pgherald("demo", "--once", "--count", 12, env={"TMPDIR": str(folder)}, check=True)
    assert "10 of 10 mails came, each once; 2 of 2 skipped with their reason" in done.stdout
    assert "commit to acceptance" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["triggers installed", "Ctrl-C ends it"])
def test_ended_it_leaves_nothing_behind(folder: Path, ends: signal.Signals, moment: str) -> None:
    with demo(folder) as process:
        wait_line(process, moment)
        process.send_signal(ends)
        wait_line(process, "ended and cleaned up")
        assert process.wait(60) == 0
        wait_until(lambda: is_gone(process.pid))
    assert list(folder.iterdir()) == []


def test_ended_before_its_end_it_has_shown_nothing(folder: Path) -> None:
    with demo(folder, "--once", "--count", "10000") as process:
        wait_line(process, "daemon: pgherald run")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
