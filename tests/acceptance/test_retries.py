"""A recipient or a server that refuses, drops or is unreachable: the event is kept, and sent as soon as it can be."""

import json

import pytest

from tests.support.backlog import RULE, add_plans, states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, drop


def test_a_refused_recipient_fails_and_a_busy_one_is_tried_again(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    unknown, busy = database.add_plan("Café", "unknown@example.org"), database.add_plan("Café", "busy@example.org")
    mail.script("rcpt", answer("550 5.1.1 no such user"), recipient="unknown@example.org")
    mail.script("rcpt", answer("450 4.2.1 later"), recipient="busy@example.org", times=1)
    database.verify(unknown, busy)
    done = pgherald("run", "--once")
    assert done.returncode == 0
    assert "1 event left for a later retry" in done.stderr
    failed, waiting = database.events()
    assert (failed["state"], failed["reason"], failed["attempt"]) == ("failed", "bad_address", 1)
    assert (waiting["state"], waiting["attempt"]) == ("available", 1)
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'available'")
    assert pgherald("run", "--once").returncode == 0
    assert mail.recipients == ["busy@example.org"]
    story = json.loads(pgherald("explain", RULE, busy, "--json").stdout)["events"][0]
    assert [entry["what"] for entry in story["history"]] == [
        "captured", "claimed", "transmitting", "deferred", "claimed", "transmitting", "sent",
    ]  # fmt: skip
    assert "450 4.2.1 later" in story["history"][3]["detail"]


def test_attempts_end(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("rcpt", answer("450 4.2.1 busy"))
    database.verify(database.add_plan("Café", "busy@example.org"))
    assert pgherald("run", "--once", env={"PGHERALD_DELIVERY_MAX_ATTEMPTS": "1"}).returncode == 0
    assert [event["state"] for event in database.events()] == ["failed"]


def test_a_server_that_drops_before_the_dot_burns_no_attempt(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("data", drop(), times=3)
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon():
        mail.wait_for(1)
    [event] = database.events()
    assert (event["state"], event["attempt"]) == ("sent", 1)


def test_the_mail_server_comes_back(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.stop()
    plans = add_plans(database, 30)
    with pgherald.daemon() as daemon:
        database.verify(*plans)
        daemon.wait_event("breaker_open")
        status = json.loads(pgherald("status", "--json").stdout)
        assert status["rules"][RULE]["failed"] == 0
        mail.start()
        mail.wait_for(30)
    assert states(database) == {"sent": 30}
    assert {event["attempt"] for event in database.events()} == {1}


@pytest.mark.parametrize("events", [1, 20])
def test_once_says_that_the_mail_server_is_away(
    database: Database, mail: MailServer, pgherald: Pgherald, events: int
) -> None:
    mail.stop()
    database.verify(*add_plans(database, events))
    done = pgherald("run", "--once")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: the mail server ")
    assert "could not be reached" in last
    assert "no event is lost" in last
    assert "[smtp] url" in last
    assert states(database) == {"available": events}
