"""Run the command with its standard streams closed, or on a terminal that cannot encode a character."""

import os
import subprocess
from pathlib import Path

from tests.support.command import PROGRAM, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer


def test_closed_streams(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    environment = {**os.environ, **pgherald.settings}
    for line, status in (
        ("events retry dateplan_verified --yes <&-", 0),
        ("status >&-", 0),
        ("run --once <&- >&- 2>&-", 0),
        ("backfill dateplan_verified --dry-run 2>&-", 0),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{PROGRAM} {line}"], env=environment, cwd=tmp_path, capture_output=True, check=False
        )  # fmt: skip
        assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr.decode()
    mail.wait_for(1)


def test_a_terminal_without_the_letters(database: Database, pgherald: Pgherald) -> None:
    database.add_plan("Cafe", "a@example.org", status="VE")
    done = pgherald("preview", "dateplan_verified", env={"PYTHONIOENCODING": "latin-1"}, check=True)
    assert "verified \\U0001f389" in done.stdout
