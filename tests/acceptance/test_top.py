"""The command top, in a terminal of its own."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support import PATIENCE
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


class Terminal:
    def __init__(self, pgherald: Pgherald) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        environment = {**pgherald._environment(None), "TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(pgherald._command(["top"]), env=environment, cwd=pgherald.folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)  # fmt: skip
        self.raw = ""

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> None:
        self._read(lambda: bool(re.search(pattern, self.text)), timeout, pattern)

    def ended(self, timeout: float = PATIENCE) -> int:
        self._read(lambda: self.process.poll() is not None, timeout, "its end")
        return self.process.wait()

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def _read(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < end, f"no {what} in {self.text[-2000:]}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.raw += os.read(self.master, 65536).decode(errors="replace")


@contextmanager
def watching(pgherald: Pgherald) -> Iterator[Terminal]:
    terminal = Terminal(pgherald)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


def test_it_shows_what_happens_and_ends_with_q(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.execute(
        "INSERT INTO pgherald.outbox (rule, key, state, reason, settled_at) VALUES (%s, E'evil\\x1b]0;x\\x07[red]', 'failed', 'bad_address', now())",
        (RULE,),
    )
    with pgherald.daemon(), watching(pgherald) as terminal:
        terminal.wait_for("0 waiting")
        terminal.wait_for("leader")
        terminal.wait_for(r"bad_address +dateplan_verified evil\ufffd\]0;x\ufffd\[red\]")
        assert "\x1b]0;x" not in terminal.raw
        plan = database.add_plan("Café", "jane@example.org")
        database.verify(plan)
        mail.wait_for(1)
        terminal.wait_for(rf"sent +dateplan_verified {plan}")
        terminal.wait_for("last hour: 1 sent")
        assert "jane@" not in terminal.raw
        pgherald("pause", RULE, check=True)
        terminal.wait_for("dateplan_verified +paused")
        assert "bounced" not in terminal.text
        database.execute("UPDATE pgherald.rule SET bounced = 2, complained = 1")
        terminal.wait_for("2 bounced, 1 complained")
        terminal.press(b"q")
        assert terminal.ended() == 0
        # The terminal is as it was: keys are shown again, and the picture is gone.
        assert termios.tcgetattr(terminal.slave) == terminal.before
        assert terminal.raw.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h"))


@pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM"])
def test_it_ends_cleanly(database: Database, pgherald: Pgherald, how: str) -> None:
    with watching(pgherald) as terminal:
        terminal.wait_for("no daemon is running")
        if how == "ctrl-c":
            terminal.process.send_signal(signal.SIGINT)
        else:
            terminal.process.terminate()
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.text


def test_without_a_terminal_or_a_database(database: Database, pgherald: Pgherald) -> None:
    done = pgherald("top")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: top needs a terminal; for scripts, use `pgherald status --json`\n"
    pgherald.settings = {**pgherald.settings, "PGHERALD_DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    with watching(pgherald) as terminal:
        assert terminal.ended() == 1
        assert terminal.text.count("Error: ") == 1
        assert "Traceback" not in terminal.text
