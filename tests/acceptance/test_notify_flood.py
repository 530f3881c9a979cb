"""Any role can notify the channel: a flood delays no email, ends no session and stays out of memory."""

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import wait_until
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

# By its poll a daemon would find an event after a minute.
NO_POLL = {"PGHERALD_DELIVERY_POLL": "60s"}
# Each with a payload of its own: PostgreSQL drops a transaction's duplicates. 8000 bytes are its limit.
_NOTIFY = "SELECT pg_notify(%s, repeat('x', 7000) || %s || '-' || n) FROM generate_series(%s::int, %s) AS n"
_BATCH = 50


@pytest.fixture
def database(lone_database: Database) -> Database:
    return lone_database


@contextmanager
def flood(database: Database, channel: str, sessions: int, most: float) -> Iterator[list[int]]:
    """So many sessions, `most` notifications a second together; how many each has sent."""
    over = threading.Event()
    sent = [0] * sessions

    def pour(number: int) -> None:
        begun = time.monotonic()
        with psycopg.connect(database.url, autocommit=True) as conn:
            while not over.is_set():
                if sent[number] > (time.monotonic() - begun) * most / sessions:
                    over.wait(0.002)
                    continue
                conn.execute(_NOTIFY, (channel, str(number), sent[number], sent[number] + _BATCH - 1))
                sent[number] += _BATCH

    threads = [threading.Thread(target=pour, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join()


def megabytes(daemon: Daemon) -> float:
    lines = Path(f"/proc/{daemon.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def endure(
    database: Database, mail: MailServer, daemon: Daemon, channel: str, sessions: int, most: float, seconds: float
) -> list[float]:
    """Seconds that each mail took. Prints what was measured."""
    before, peak, full, late = megabytes(daemon), 0.0, 0.0, []
    with flood(database, channel, sessions, most) as sent:
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            number = len(mail.messages) + 1
            plan = database.add_plan("Café", f"a{number}@example.org")
            at = time.time()
            database.verify(plan)
            late.append(mail.wait_for(number, timeout=20)[-1].at - at)
            peak = max(peak, megabytes(daemon))
            full = max(full, database.value("SELECT pg_notification_queue_usage()"))
        rate = sum(sent) / (time.monotonic() - begun)
    print(
        f"{channel}: {rate:.0f} notifications a second; {len(late)} mails, {statistics.median(late):.3f} s in the middle, "
        f"{max(late):.2f} s at worst; {before:.0f} MB before, {peak:.0f} at most, {megabytes(daemon):.0f} after; queue {full:.1%}"
    )
    assert peak < before + 25
    return late


def kept_listening(daemon: Daemon) -> bool:
    return not any(
        event["event"] in ("listen_disconnected", "listen_connect_failed", "not_listening") for event in daemon.events
    )


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["pgherald", pytest.param("anothers", marks=pytest.mark.slow)])
def test_a_flood(database: Database, mail: MailServer, pgherald: Pgherald, channel: str) -> None:
    with pgherald.daemon(env=NO_POLL) as daemon:
        daemon.wait_event("leading")
        # More than the machine can do: what the session is asked for is answered behind seconds of notifications.
        endure(database, mail, daemon, channel, 4, 1e6, 6)
        number = len(mail.messages) + 1
        database.verify(database.add_plan("Café", "calm@example.org"))
        mail.wait_for(number, timeout=20)
        assert kept_listening(daemon)


@pytest.mark.slow
@pytest.mark.parametrize(("sessions", "most"), [(3, 5000), (8, 1e6)], ids=["5000 a second", "all that goes"])
def test_a_long_flood(database: Database, mail: MailServer, pgherald: Pgherald, sessions: int, most: float) -> None:
    with pgherald.daemon(env=NO_POLL) as daemon, pgherald.daemon(env=NO_POLL):
        daemon.wait_event("leading")
        late = endure(database, mail, daemon, "pgherald", sessions, most, 30)
        assert statistics.median(late) < 1
        # Of more than a session can read it lets go, so that the server's queue does not fill, and polls for a while.
        assert kept_listening(daemon) or most > 5000


@pytest.mark.slow
def test_doctor_says_what_keeps_it_from_hearing(database: Database, pgherald: Pgherald) -> None:
    """A backlog of notifications that it cannot read in its two seconds; whether it hears itself depends on the machine."""
    with flood(database, "pgherald", 4, 1e6) as sent:
        wait_until(lambda: sum(sent) > 5000)
        found = {finding["check"]: finding for finding in json.loads(pgherald("doctor", "--json").stdout)}["listen"]
    assert found["state"] == "ok" or "notifications of others on channel pgherald" in found["seen"]
