"""Nobody reads the log, or its disk is full: emails go out, the probes answer, and SIGTERM ends the daemon."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import PATIENCE, repeats, wait_until
from tests.support.command import PROGRAM, Pgherald
from tests.support.database import Database, free_port
from tests.support.mail import MailServer
from tests.support.web import Client

EVENTS = 20


class _Page(Client):
    """The page of a daemon whose log tells nothing."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"


@contextmanager
def running(
    pgherald: Pgherald, log: int, port: int, level: str = "debug", **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`pgherald run` with this descriptor as its stderr."""
    env = pgherald._environment(
        {"PGHERALD_HTTP_LISTEN": f"127.0.0.1:{port}", "PGHERALD_LOG_LEVEL": level, "PGHERALD_DELIVERY_POLL": "50ms", **more}
    )  # fmt: skip
    process = subprocess.Popen([PROGRAM, "run"], env=env, cwd=pgherald.folder, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"\n" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


def works_and_stops(
    process: subprocess.Popen[bytes], port: int, database: Database, mail: MailServer, *, before: int = 0
) -> None:
    for number in range(EVENTS):
        database.verify(database.add_plan("Lisbon", f"u{before + number}@example.org"))
    mail.wait_for(before + EVENTS)
    assert _Page(port).get("/livez").status == 200
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nobody reads", repeats("the reader has gone"), "the disk is full"])
def test_the_daemon_goes_on(database: Database, mail: MailServer, pgherald: Pgherald, kind: str) -> None:
    reader, log = full_pipe()
    if kind == "the reader has gone":
        os.close(reader)
    elif kind == "the disk is full":
        log = os.open("/dev/full", os.O_WRONLY)
    with running(pgherald, log, port := free_port()) as process:
        os.close(log)
        works_and_stops(process, port, database, mail)


def test_what_was_lost_is_counted_and_said(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    reader, log = full_pipe()
    # With debug, each poll logs a line. 40 KB of a folder's name make the 1 MiB of the queue full soon.
    long = "x" * 40_000
    with running(pgherald, log, port := free_port(), PGHERALD_MAIL_ALLOWED_RECIPIENTS="@example.org") as process:
        os.close(log)
        page = _Page(port)

        def lost() -> float:
            try:
                return page.metrics()["pgherald_log_lines_lost_total"]
            except OSError:
                return 0.0

        for number in range(60):
            database.verify(database.add_plan("Lisbon", f"u{number}@example.org"))
        mail.wait_for(60)
        while not lost():
            # A lookup's error is repeated in the log.
            process.send_signal(signal.SIGHUP)
            (pgherald.folder / "pgherald.toml").write_text(
                f'[http]\nallowed_hosts = ["{long}"]\n[smtp]\n"{long}" = 1\n'
            )
        (pgherald.folder / "pgherald.toml").unlink()
        text = ""

        def reported() -> dict[str, Any] | None:
            nonlocal text
            text += os.read(reader, 1 << 20).decode()
            lines = [line for line in text.splitlines() if '"log_lines_lost"' in line]
            return json.loads(lines[0]) if lines else None

        report = wait_until(reported)
        assert report is not None
        assert (report["level"], report["lines"]) == ("error", lost())
        works_and_stops(process, port, database, mail, before=60)
    os.close(reader)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Any]:
    """A file for stderr, and the variable by which systemd says that it leads to the journal."""
    file = (tmp_path / "journal").open("w+")
    status = os.fstat(file.fileno())
    with file:
        yield file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_journal_gets_levels(
    database: Database, mail: MailServer, pgherald: Pgherald, journal: Any, form: str
) -> None:
    file, env = journal
    database.verify(database.add_plan("Lisbon", "nobody at all@example.org"))
    with running(
        pgherald, file.fileno(), free_port(), "info", PGHERALD_LOG_FORMAT=form,
        PGHERALD_MAIL_ALLOWED_RECIPIENTS="@example.org", **env,
    ) as process:  # fmt: skip
        wait_until(lambda: "event_failed" in Path(file.name).read_text())
        (pgherald.folder / "pgherald.toml").write_text("[smtp]\nconections = 1\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload_refused" in Path(file.name).read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    levels = {}
    for line in Path(file.name).read_text().splitlines():
        priority, _, rest = line.partition(">")
        name = json.loads(rest)["event"] if form == "json" else rest.split("]")[1].split()[0]
        levels[name] = priority
    assert {name: levels[name] for name in ("ready", "mail_restricted", "event_failed", "reload_refused")} == {
        "ready": "<6", "mail_restricted": "<4", "event_failed": "<4", "reload_refused": "<3",
    }  # fmt: skip


def test_an_error_before_the_log_is_set_up(pgherald: Pgherald, journal: Any) -> None:
    file, env = journal
    with running(pgherald, file.fileno(), 0, "info", PGHERALD_SMTP_CONECTIONS="1", **env) as process:
        assert process.wait(PATIENCE) == os.EX_CONFIG
    assert Path(file.name).read_text().startswith("<3>Error: environment, PGHERALD_SMTP_CONECTIONS: ")


def test_a_stream_that_is_not_the_journals_gets_none(pgherald: Pgherald) -> None:
    """The variable is inherited by programs whose stderr leads elsewhere."""
    done = pgherald("--config", "none.toml", "status", env={"JOURNAL_STREAM": "8:1"})
    assert done.stderr.startswith("Error: none.toml")
