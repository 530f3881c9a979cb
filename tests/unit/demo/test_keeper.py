"""The keeper acts when its pipe is closed, and not if it is dismissed."""

import subprocess
import sys
from pathlib import Path

import pytest

from listener.demo.keeper import Keeper
from tests.support import PATIENCE, wait_until

SERVER = [sys.executable, "-c", "import signal; signal.signal(signal.SIGQUIT, lambda *_: exit(7)); print(flush=True); signal.pause()"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "file").touch()
    return folder


def close_pipe(keeper: Keeper) -> None:
    """As the system does when our process dies."""
    assert keeper._process.stdin is not None
    keeper._process.stdin.close()
    keeper._process.wait(PATIENCE)


def test_it_removes_the_folder(folder: Path) -> None:
    close_pipe(Keeper(folder))
    assert not folder.exists()


def test_it_ends_the_server_that_it_was_told_last(folder: Path) -> None:
    with subprocess.Popen(SERVER, stdout=subprocess.PIPE) as stopped, subprocess.Popen(SERVER, stdout=subprocess.PIPE) as server:  # fmt: skip
        for process in (stopped, server):
            assert process.stdout is not None
            process.stdout.readline()
        keeper = Keeper(folder)
        for pid in (stopped.pid, None, server.pid):
            keeper.set_server(pid)
        assert keeper._process.stdin is not None
        keeper._process.stdin.close()
        # Until we collect it, a process that has ended still has its number: the keeper waits for that.
        assert server.wait(PATIENCE) == 7
        keeper._process.wait(PATIENCE)
        assert stopped.poll() is None
        stopped.kill()
    wait_until(lambda: not folder.exists())


def test_dismissed_it_leaves_everything(folder: Path) -> None:
    Keeper(folder).dismiss()
    assert (folder / "file").exists()
