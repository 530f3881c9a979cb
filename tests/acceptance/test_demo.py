"""The demo ends by itself or at a signal, and leaves no process and no file."""

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest

from tests.support import repeats, wait_until
from tests.support.command import PROGRAM, Pgherald

CHECKOUT = Path(__file__).parents[2]


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
            # Asked to end, it ends its daemon too; killed, it could not.
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def wait_line(process: subprocess.Popen[bytes], words: str) -> str:
    """The next line with these words in it."""
    assert process.stdout is not None
    found = next((line for line in map(bytes.decode, process.stdout) if words in line), None)
    assert found is not None, f"it ended without saying {words!r}"
    return found.strip()


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_it_ends_by_itself(pgherald: Pgherald, folder: Path) -> None:
    done = pgherald("demo", "--once", "--count", 12, env={"TMPDIR": str(folder)}, check=True)
    assert "10 of 10 emails arrived, each once; 2 of 2 events skipped, each for the expected reason" in done.stdout
    assert "time from commit to arrival" in done.stdout
    assert list(folder.iterdir()) == []


def test_it_shows_who_was_told_who_was_not_and_why(pgherald: Pgherald, folder: Path) -> None:
    said = pgherald("demo", "--once", "--count", 24, env={"TMPDIR": str(folder)}, check=True).stdout
    assert re.search(r"^  email    user1@example\.org .* is now verified 🎉 \| Congratulations!", said, re.MULTILINE)
    skipped = [re.split(r"  +", line.strip()) for line in said.splitlines() if line.startswith("  skipped  user")]
    assert skipped == [
        ["skipped", "user6@example.org", "dateplan 6: no_consent (consent is false)"],
        ["skipped", "user12@example.org", "dateplan 12: no_consent (consent is NULL)"],
        ["skipped", "user24@example.org", "dateplan 24: incomplete (place is NULL)"],
    ]
    assert re.search(r"^  skipped  \(no address\) +dateplan 18: no_recipient", said, re.MULTILINE)
    asked, answer, name, *history = said.partition("$ pgherald")[2].partition("\n\n")[0].splitlines()
    assert asked == " explain dateplan_verified 6"
    assert re.fullmatch(r"event \d+: skipped \(no_consent\), attempt 0", answer)
    assert re.fullmatch(r"  Message-ID <[a-z2-7]{26}@.+>", name)
    assert [line.split()[3] for line in history] == ["captured", "claimed", "skipped"]


@pytest.mark.slow
def test_it_explains_a_mail_where_nobody_was_skipped(pgherald: Pgherald, folder: Path) -> None:
    said = pgherald("demo", "--once", "--count", 1, env={"TMPDIR": str(folder)}, check=True).stdout
    assert re.search(r"^\$ pgherald explain dateplan_verified 1\nevent \d+: sent, attempt 1\n", said, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("taken", [repeats(False), True], ids=["its port is free", "its port is taken"])
def test_it_names_the_status_page(folder: Path, taken: bool) -> None:
    with ExitStack() as stack:
        if taken:
            # Unless somebody else has it: then it is taken all the same.
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", 9599)))
        process = stack.enter_context(demo(folder, "--count", "1"))
        address = wait_line(process, "status page on ").split()[-1]
        wait_line(process, f"live: {address}")
        # Another daemon of this machine would show a page too.
        assert urlsplit(address).port in listening_ports(process.pid)
        with urlopen(address, timeout=60) as page:
            assert "dateplan_verified" in page.read().decode()


def listening_ports(pid: int) -> set[int]:
    """Those of all the programs that this one has started."""
    connections = [c for child in psutil.Process(pid).children(recursive=True) for c in child.net_connections("tcp")]
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_it_needs_no_installed_package_and_no_folder_of_its_own(folder: Path, tmp_path: Path) -> None:
    """As `make demo` runs it, with only what pgherald depends on: in PYTHONPATH, no .pth file leads to a checkout."""
    dependencies = sysconfig.get_path("purelib")
    done = subprocess.run(
        [sys._base_executable, CHECKOUT / "cli.py", "demo", "--once", "--count", "1"],  # type: ignore[attr-defined]
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": dependencies},
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 of 1 emails arrived" in done.stdout


@pytest.mark.parametrize(
    ("ends", "moment"),
    [
        (signal.SIGINT, "triggers installed"),
        repeats(signal.SIGTERM, "triggers installed"),
        repeats(signal.SIGHUP, "triggers installed"),
        repeats(signal.SIGINT, "Press Ctrl-C to stop"),
        repeats(signal.SIGTERM, "Press Ctrl-C to stop"),
        repeats(signal.SIGHUP, "Press Ctrl-C to stop"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_ended_it_leaves_nothing_behind(folder: Path, ends: signal.Signals, moment: str) -> None:
    with demo(folder) as process:
        wait_line(process, moment)
        process.send_signal(ends)
        wait_line(process, "ended and cleaned up")
        assert process.wait(60) == 0
        wait_until(lambda: is_gone(process.pid))
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_ended_before_its_end_it_has_shown_nothing(folder: Path) -> None:
    with demo(folder, "--once", "--count", "2000") as process:
        wait_line(process, "daemon: pgherald run")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
