"""The messages that the daemon sends to systemd, on a real datagram socket."""

import signal
from pathlib import Path

import pytest

from listener.demo.cluster import Cluster
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database, fill_with_story
from tests.support.mail import MailServer
from tests.support.manager import service_manager

PING = "WATCHDOG=1"
_PATIENCE = 2.0
_WATCHED = {"WATCHDOG_USEC": str(int(_PATIENCE * 1e6)), "PGHERALD_DELIVERY_POLL": "100ms"}


def test_ready_reloading_ready_stopping(pgherald: Pgherald, tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager, pgherald.daemon(env=manager.settings) as daemon:
        said = manager.wait_told("READY=1")
        assert any(line.startswith("STATUS=") and "listening" in line for line in said)
        daemon.signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.wait_told("RELOADING=1"))
        manager.wait_told("READY=1")
        # Nobody had asked for pings.
        daemon.process.terminate()
        assert "STOPPING=1" in manager.told(15)
        assert daemon.wait() == 0


def test_pings_while_the_work_goes_on(pgherald: Pgherald, tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager, pgherald.daemon(env={**manager.settings, **_WATCHED}) as daemon:
        manager.wait_told("READY=1")
        for _ in range(3):
            assert manager.told(_PATIENCE)[0] == PING
        daemon.signal(signal.SIGSTOP)
        manager.forget()
        assert manager.silent(_PATIENCE)
        daemon.signal(signal.SIGCONT)
        manager.wait_told(PING)


@pytest.mark.slow
def test_a_database_that_is_away_is_no_reason_to_be_restarted(
    cluster: Cluster, mail: MailServer, tmp_path: Path
) -> None:
    fill_with_story(cluster.dsn())
    settings = {"PGHERALD_DATABASE_URL": cluster.dsn(), "PGHERALD_SMTP_URL": mail.url, "PGHERALD_LOG_FORMAT": "json"}
    command = Pgherald(settings, tmp_path)
    with service_manager(tmp_path) as manager, command.daemon(env={**manager.settings, **_WATCHED}) as daemon:
        manager.wait_told("READY=1")
        cluster.kill()
        daemon.wait_event("lease_renewal_failed")
        manager.forget()
        statuses = []
        for _ in range(8):
            ping, *statuses[len(statuses) :] = manager.told(_PATIENCE)
            assert ping == PING
        assert "LISTEN connection is down" in statuses[-1]


@pytest.mark.slow
def test_the_status_names_what_is_wrong_and_when_it_is_over(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    with service_manager(tmp_path) as manager, pgherald.daemon(env=manager.settings):
        manager.wait_told("READY=1")
        mail.stop()
        database.verify(database.add_plan("Café", "a@example.org"))

        def status(words: str) -> bool:
            return any(line.startswith("STATUS=") and words in line for line in manager.told(15))

        wait_until(lambda: status("breaker open: "))
        mail.start()
        wait_until(lambda: status(", listening"))


def test_says_what_it_waits_for_before_it_is_ready(pgherald: Pgherald, tmp_path: Path) -> None:
    nowhere = {"PGHERALD_DATABASE_URL": "postgresql://127.0.0.1:1/app"}
    with (
        service_manager(tmp_path) as manager,
        pgherald.daemon(env={**manager.settings, **nowhere}, ready=False),
    ):
        [said] = manager.told(15)
        assert said.startswith("STATUS=waiting for the database: ")
