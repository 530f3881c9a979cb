"""SIGTERM, a second SIGTERM, the end of the grace period and SIGKILL: which events are sent, released or in doubt."""

import signal
from collections import Counter

import pytest

from tests.support import repeats, wait_until
from tests.support.backlog import add_plans, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import wait


def test_sigterm_in_a_backlog_sends_nothing_twice_and_leaves_nothing_claimed(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 500)
    database.verify(*plans)
    mail.script("dot", wait(0.01))
    with pgherald.daemon() as daemon:
        wait_until(lambda: len(mail.messages) > 100)
        assert daemon.stop() == 0
    left = states(database)
    assert set(left) == {"sent", "available"}
    assert left["sent"] == len(mail.messages)
    assert database.value("SELECT count(*) FROM pgherald.worker") == 0
    mail.forget_script()
    assert pgherald("run", "--once").returncode == 0
    assert sorted(mail.recipients) == sorted({f"u{g}@example.org" for g in range(1, 501)})


def test_a_second_sigterm_ends_it_at_once(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", wait(30))
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon() as daemon:
        mail.wait_reached("dot")
        daemon.signal(signal.SIGTERM)
        daemon.wait_event("stopping")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 1
    assert states(database) == {"transmitting": 1}


def test_when_grace_is_over_what_has_no_reply_is_in_doubt(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", wait(60))
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon(env={"PGHERALD_DELIVERY_GRACE": "1s"}) as daemon:
        mail.wait_reached("dot")
        assert daemon.stop(20) == 0
        daemon.wait_event("shutdown_timeout")
    assert states(database) == {"in_doubt": 1}


@pytest.mark.parametrize("policy", ["resend", repeats("hold")])
def test_kill_9_in_a_backlog(database: Database, mail: MailServer, pgherald: Pgherald, policy: str) -> None:
    # Marked events wait for the end of the lease. On a busy machine a shorter lease expires before anything is marked.
    env = {"PGHERALD_DELIVERY_IN_DOUBT": policy, "PGHERALD_DELIVERY_LEASE": "3s"}
    plans = add_plans(database, 1000)
    database.verify(*plans)
    mail.script("dot", wait(0.02))
    with pgherald.daemon(env=env) as daemon:
        wait_until(lambda: len(mail.messages) > 50 and states(database)["transmitting"])
        daemon.kill()
    marked = states(database)["transmitting"]
    assert 0 < marked <= 16
    mail.forget_script()
    with pgherald.daemon(env=env):
        wait_until(lambda: not {"available", "claimed", "transmitting"} & set(states(database)), 80)
        if policy == "resend":
            wait_until(lambda: states(database) == {"sent": 1000})
    came = Counter(mail.recipients)
    doubled = sum(count - 1 for count in came.values())
    print(f"{policy}: {marked} were transmitting, {doubled} came twice, {1000 - len(came)} never")
    if policy == "hold":
        assert doubled == 0
        assert states(database) == {"sent": 1000 - marked, "in_doubt": marked}
        missing = 1000 - len(came)
        assert missing <= marked
    else:
        assert len(came) == 1000
        assert doubled <= marked
