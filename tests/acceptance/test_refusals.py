"""A refusal that concerns every message fails no event, and one that concerns a single message delays no other."""

import json
import time
from collections import Counter

import pytest

from tests.support import repeats, wait_until
from tests.support.backlog import RULE, add_plans, reasons, states
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, close

EVENTS = 20
OPENED = ("breaker_open", "breaker_paused")


def opened(daemon: Daemon) -> list[str]:
    return [event["reason"] for event in daemon.events if event["event"] in OPENED]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("rcpt", "553 5.7.1 <no-reply@example.org>: Sender address rejected: not owned by user x"),
        repeats("dot", "554 5.7.1 nobody knows this text"),
        repeats("dot", "451 4.7.1 Service unavailable - try again later"),
        repeats("rcpt", "554 5.7.1 <localhost[127.0.0.1]>: Client host rejected: Access denied"),
        repeats("rcpt", "550 Verification failed for <no-reply@example.org>\r\n550 Sender verify failed"),
        repeats("rcpt", "550 sender address does not exist"),
        repeats("rcpt", "550 5.2.1 The account that you send from is disabled"),
        repeats("rcpt", "554 5.7.1 Relay access denied"),
        repeats("rcpt", "550 we do not like you"),
        repeats("data", "554 not today"),
        repeats("dot", "550 The from address does not match a verified Sender Identity"),
        repeats("dot", "554 5.2.252 SendAsDenied; x@example.org not allowed to send as y@example.org"),
        repeats("dot", "554 Sending paused for this account."),
        repeats("rcpt", "451 4.3.0 Error: queue file write error"),
        repeats("rcpt", "450 4.7.1 policy server is not reachable"),
        repeats("rcpt", "452 4.3.1 Insufficient system storage"),
    ],
)
def test_nothing_fails_and_all_is_sent_after_the_repair(
    database: Database, mail: MailServer, pgherald: Pgherald, phase: str, reply: str
) -> None:
    mail.script(phase, answer(*reply.split("\r\n")))
    database.verify(*add_plans(database, EVENTS))
    with pgherald.daemon() as daemon:
        daemon.wait_event("breaker_open")
        wait_until(lambda: states(database) == {"available": EVENTS})
        status = pgherald("status").stdout
        assert "breaker open" in status
        assert reply[:9] in status
        # Each probe meets the same refusal, and the event goes back.
        tried = mail.smtpd.seen[phase]
        mail.wait_reached(phase, tried + 2)
        assert "failed" not in states(database)
        refused, connections = mail.smtpd.seen[phase], mail.smtpd.connections
        mail.forget_script()
        repaired = time.time()
        last = mail.wait_for(EVENTS)[-1].at - repaired
    print(
        f"{reply[:60]!r}: {refused} refused over {connections} connections; the last sent {last:.1f} s after the repair"
    )
    assert states(database) == {"sent": EVENTS}
    assert len(set(mail.recipients)) == EVENTS


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("dot", "554 Message rejected: Email address is not verified. The following identities failed the check: u7@example.org"),
        repeats("dot", "421 4.3.0 the filter has crashed"),
        repeats("rcpt", "450 4.7.1 <u7@example.org>: rate limit for this recipient exceeded"),
        repeats("rcpt", "450 4.7.1 rate limit exceeded"),
        repeats("rcpt", "550 daily message limit"),
        repeats("rcpt", "451 4.3.0 alias file broken"),
        repeats("dot", "550 5.7.1 looks like spam"),
        repeats("rcpt", "553 5.7.1 Sender address rejected: by this user"),
        repeats("rcpt", "552 5.2.2 The account's mailbox quota is exceeded"),
        repeats("rcpt", "550 5.7.1 Account quota exceeded"),
    ],
)  # fmt: skip
def test_one_messages_own_trouble_delays_no_other(
    database: Database, mail: MailServer, pgherald: Pgherald, phase: str, reply: str
) -> None:
    mail.script(phase, answer(reply), recipient="u7@example.org")
    plans = add_plans(database, EVENTS)
    with pgherald.daemon() as daemon:
        changed = time.time()
        database.verify(*plans)
        latest = mail.wait_for(EVENTS - 1)[-1].at - changed
        print(f"{reply[:60]!r}: the last of the {EVENTS - 1} others was accepted {latest:.2f} s after the change")
        # It is tried again, and others go on. From its second failure on, it uses attempts.
        for number in range(1, 40):
            if any(event["attempt"] >= 1 for event in database.events() if event["state"] != "sent"):
                break
            seen = mail.smtpd.seen[phase]
            database.verify(*add_plans(database, 1, name=f"more{number}-"))
            mail.wait_for(EVENTS - 1 + number)
            mail.wait_reached(phase, seen + 2)
            wait_until(lambda: not {"claimed", "transmitting"} & states(database).keys())
        assert len(opened(daemon)) <= 1
        assert "rate_lowered" not in {event["event"] for event in daemon.events}
    [own] = [event for event in database.events() if event["state"] != "sent"]
    assert (own["state"], own["attempt"] >= 1) in (("available", True), ("failed", True))


@pytest.mark.slow
def test_a_refusal_for_good_fails_its_event_once_another_message_was_accepted(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("rcpt", answer("550 5.7.1 policy"), recipient="u1@example.org")
    [alone, other] = add_plans(database, 2)
    with pgherald.daemon() as daemon:
        database.verify(alone)
        daemon.wait_event("event_deferred", attempt=1)
        daemon.wait_event("event_deferred", attempt=2)
        assert opened(daemon) == []
        database.verify(other)
        mail.wait_for(1)
        daemon.wait_event("event_failed", reason="rejected")
    assert sorted(reasons(database)) == [("failed", "rejected"), ("sent", None)]


@pytest.mark.parametrize(
    "reply",
    ["451 4.7.1 Service unavailable", repeats("450 4.7.1 rate limit exceeded"), repeats("550 daily message limit")],
)
def test_a_single_attempt_is_not_lost_to_the_server(
    database: Database, mail: MailServer, pgherald: Pgherald, reply: str
) -> None:
    mail.script("rcpt", answer(reply))
    database.verify(*add_plans(database, EVENTS))
    with pgherald.daemon(env={"PGHERALD_DELIVERY_MAX_ATTEMPTS": "1"}) as daemon:
        wait_until(lambda: {*OPENED, "rate_lowered"} & {event["event"] for event in daemon.events})
        wait_until(lambda: states(database) == {"available": EVENTS})


def test_dead_addresses_in_a_row_stop_nobody(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    for number, reply in enumerate(["550 5.1.1 User unknown", "550 no such user", "550 5.2.1 disabled"] * 2, 1):
        mail.script("rcpt", answer(reply), recipient=f"u{number}@example.org")
    database.verify(*add_plans(database, EVENTS))
    with pgherald.daemon(env={"PGHERALD_SMTP_CONNECTIONS": "1"}) as daemon:
        mail.wait_for(EVENTS - 6)
        wait_until(lambda: states(database) == {"sent": EVENTS - 6, "failed": 6})
        assert opened(daemon) == []
    assert Counter(reasons(database)) == {("sent", None): EVENTS - 6, ("failed", "bad_address"): 6}


@pytest.mark.slow
def test_a_server_that_allows_two_connections_gets_two(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.allow_connections(2)
    plans = add_plans(database, 200)
    with pgherald.daemon(env={"PGHERALD_SMTP_CONNECTIONS": "8"}) as daemon:
        database.verify(*plans)
        mail.wait_for(200)
        wait_until(lambda: states(database) == {"sent": 200})
        assert opened(daemon) == []
        [lowered] = [event for event in daemon.events if event["event"] == "smtp_connections_lowered"]
        assert lowered["configured"] == 8
        print(f"{mail.smtpd.connections} connections, {mail.smtpd.turned_away} of them refused")
        assert mail.smtpd.turned_away <= 7
    assert {event["attempt"] for event in database.events()} == {1}
    history = json.loads(pgherald("events", "list", RULE, "--json").stdout)
    assert len(history) > 0


@pytest.mark.slow
def test_a_server_that_announces_an_absurd_size_fails_no_event(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.smtpd.extensions = mail.smtpd.extensions_in_clear = ("PIPELINING", "SIZE 1")
    database.verify(*add_plans(database, EVENTS))
    with pgherald.daemon() as daemon:
        assert "announces SIZE 1" in daemon.wait_event("breaker_open")["reason"]
        wait_until(lambda: states(database) == {"available": EVENTS})
        mail.smtpd.extensions = mail.smtpd.extensions_in_clear = ("PIPELINING", "SIZE 1000000")
        mail.wait_for(EVENTS)


@pytest.mark.slow
def test_a_connection_lost_at_the_same_message_is_the_messages_own(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("rcpt", close(), recipient="u1@example.org")
    plans = add_plans(database, 2)
    with pgherald.daemon() as daemon:
        database.verify(plans[0])
        daemon.wait_event("event_not_sent")
        database.verify(plans[1])
        mail.wait_for(1)
        daemon.wait_event("event_deferred", attempt=1)
