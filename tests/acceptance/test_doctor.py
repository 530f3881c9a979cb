"""The command doctor: its lines, its JSON and its exit status."""

import json

from listener.doctor import server
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.doctor import (
    HEALTHY,
    as_role,
)
from tests.support.mail import MailServer


def of_its_release(database: Database) -> set[str]:
    """The check that is not ok because of the release of the tests' own server."""
    major, minor = divmod(database.value("SELECT current_setting('server_version_num')::integer"), 10000)
    return {"server"} if minor < server.FIXED_MINOR.get(major, 0) else set()


def test_healthy(plan: int, database: Database, pgherald: Pgherald, mail: MailServer) -> None:
    done = pgherald("doctor", "--json", check=True)
    findings = json.loads(done.stdout)
    assert all(finding["seen"] and bool(finding["remedy"]) == (finding["state"] != "ok") for finding in findings)
    assert all(set(finding) == {"check", "state", "seen", "remedy"} for finding in findings)
    assert {finding["check"] for finding in findings if finding["state"] != "ok"} == (
        HEALTHY | {"login"} | of_its_release(database)
    )
    assert len(findings) == 29
    assert mail.smtpd.seen["mail"] == 0
    assert pgherald("doctor", "--strict").returncode == 1
    lines = pgherald("doctor", check=True).stdout.splitlines()
    assert len(lines) == len(findings)
    assert "warn   daemon: no daemon is running; events wait -> start one: pgherald run" in lines


def test_healthy_with_a_daemon(plan: int, database: Database, daemon_role: str, pgherald: Pgherald) -> None:
    env = {"PGHERALD_DATABASE_URL": as_role(database, daemon_role)}
    with pgherald.daemon(env=env):
        wait_until(lambda: pgherald("doctor", "--strict", env=env).returncode == len(of_its_release(database)))


def test_a_fault_is_an_exit_status(database: Database, pgherald: Pgherald) -> None:
    database.execute("ALTER TABLE public.dateplan DISABLE TRIGGER pgherald_dateplan_verified_insert")
    done = pgherald("doctor")
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert "pgherald_dateplan_verified_insert on public.dateplan is disabled" in line
    assert "-> ALTER TABLE public.dateplan ENABLE TRIGGER pgherald_dateplan_verified_insert" in line
