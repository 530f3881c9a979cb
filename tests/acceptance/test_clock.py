"""The system clock is set forward and back while the daemon runs: leases and delays do not depend on it."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.backlog import wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer

pytestmark = pytest.mark.slow

_WRONG = {"workers_rescued", "lease_expired", "lease_renewal_failed", "listen_disconnected", "claim_superseded"}
_RENEWED = "SELECT count(*) FROM pgherald.worker WHERE seen_at > %s"


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """Yield a file whose text, such as ``+0`` or ``+1d``, is added to the clock of a process with `_faked`."""
    file = tmp_path / "clock"
    file.write_text("+0")
    return file


def _faked(clock: Path) -> dict[str, str]:
    assert shutil.which("faketime"), "libfaketime is missing: apt-get install faketime"
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    # A monotonic clock is not set by anybody.
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PGHERALD_DELIVERY_LEASE": "2s",
    }


def _furthest(daemon: Daemon) -> timedelta:
    said = [datetime.fromisoformat(event["timestamp"]) for event in daemon.events]
    return max(abs(moment - datetime.now(moment.tzinfo)) for moment in said)


def test_a_clock_that_is_set_makes_no_difference(
    database: Database, mail: MailServer, pgherald: Pgherald, clock: Path
) -> None:
    mail.script("rcpt", answer("451 4.2.1 in a moment"), recipient="later@example.org", times=1)
    with pgherald.daemon(env=_faked(clock)) as daemon, pgherald.daemon(env={"PGHERALD_DELIVERY_LEASE": "2s"}) as other:
        database.verify(database.add_plan("Café", "later@example.org"))
        wait_until(lambda: any(event["event"] == "event_deferred" for event in [*daemon.events, *other.events]))
        for turn, step in enumerate(("+1d", "-400d", "+0", "+3650d")):
            clock.write_text(step)
            for number in range(5):
                database.verify(database.add_plan("Café", f"u{turn}.{number}@example.org"))
            mail.wait_for(5 * (turn + 1))
            # Longer than a lease, so that one that the clock had ended would be seen to end.
            later = database.value("SELECT now() + interval '2.5 s'")
            wait_until(lambda later=later: database.value(_RENEWED, (later,)) == 2)
        database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'available'")
        wait_sent(database, 21)
        for message in mail.messages:
            assert abs(message.email["Date"].datetime.timestamp() - message.at) < 60
        assert _furthest(daemon) > timedelta(hours=12), "the clock was not set"
        assert not _WRONG & {event["event"] for event in [*daemon.events, *other.events]}
    today = database.value("SELECT now()")
    assert isinstance(today, datetime)
    assert all(abs(message.email["date"].datetime - today) < timedelta(minutes=5) for message in mail.messages)
    assert len(mail.messages) == len(set(mail.recipients)) == 21
