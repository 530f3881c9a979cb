"""Who starts the command may have closed its streams, have a terminal without letters, or no place to write."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.command import PROGRAM, Pgherald
from tests.support.database import Database, Databases
from tests.support.mail import MailServer


def test_closed_streams(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    environment = {**os.environ, **pgherald.settings}
    for line, status in (
        ("events retry dateplan_verified <&-", 0),
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


@pytest.mark.parametrize("folder", ["/dev/null/x", "/proc/x"])
def test_no_place_to_write(database: Database, pgherald: Pgherald, folder: str) -> None:
    database.add_plan("Café", "a@example.org", status="VE")
    done = pgherald("preview", "dateplan_verified", "--out", folder)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert folder in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_secret_file_that_is_named_by_nothing(database: Database, pgherald: Pgherald) -> None:
    done = pgherald("status", env={"PGHERALD_DATABASE_URL_FILE": ""})
    assert (done.returncode, "PGHERALD_DATABASE_URL_FILE: cannot read" in done.stderr) == (1, True), done.stderr


def test_a_key_may_be_written_otherwise(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café", "a@example.org")
    database.verify(plan)
    pgherald("run", "--once", check=True)
    database.execute("DELETE FROM public.dateplan")
    told = json.loads(pgherald("explain", "dateplan_verified", f"00{plan}", "--json", check=True).stdout)
    assert [event["state"] for event in told["events"]] == ["sent"]
    assert "1 event forgotten" in pgherald("forget", "dateplan_verified", f"00{plan}", check=True).stdout
    assert "0 events" in pgherald("forget", "dateplan_verified", "no number", check=True).stdout


def test_sighup_while_the_database_is_away(databases: Databases, database: Database, pgherald: Pgherald) -> None:
    """It ends nothing, and is not forgotten."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    name = sql.Identifier(conninfo_to_dict(database.url)["dbname"])
    with psycopg.connect(databases.url, autocommit=True) as admin:
        admin.execute(allow.format(name, sql.SQL("false")))
        with pgherald.daemon(ready=False) as daemon:
            daemon.wait_event("database_unavailable")
            daemon.signal(signal.SIGHUP)
            admin.execute(allow.format(name, sql.SQL("true")))
            daemon.wait_event("reloaded")
