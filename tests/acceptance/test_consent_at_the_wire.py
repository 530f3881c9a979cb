"""No email begins by a lookup that is older than two seconds, however long the server takes to be ready for it."""

from collections.abc import Iterator

import pytest

from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import Action, answer, wait

# Longer than a lookup is good for, and shorter than an idle connection is kept.
SLOW = wait(3)
ONE = {"PGHERALD_SMTP_CONNECTIONS": "1"}


@pytest.fixture
def plain() -> Iterator[MailServer]:
    """A server without extensions, to which RSET and MAIL go one by one."""
    with MailServer(extensions=()) as mail:
        yield mail


def withdraw(database: Database) -> None:
    database.execute("UPDATE public.users SET email_notifications_enabled = false")


def words(database: Database) -> list[str]:
    [event] = database.events()
    return [entry["what"] for entry in event["history"]]


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["connect", repeats("greeting"), repeats("ehlo")])
def test_consent_withdrawn_while_a_server_is_slow_to_be_ready_is_respected(
    database: Database, mail: MailServer, pgherald: Pgherald, phase: str
) -> None:
    mail.script(phase, SLOW)
    with pgherald.daemon():
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_reached(phase)
        withdraw(database)
        wait_until(lambda: database.value("SELECT reason FROM pgherald.outbox") == "no_consent")
    assert mail.messages == []
    assert mail.smtpd.seen["mail"] == 0
    assert words(database) == ["claimed", "transmitting", "released", "claimed", "skipped"]


@pytest.mark.slow
def test_with_a_server_that_is_always_slow_to_be_ready_each_email_leaves_once_and_without_an_attempt(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The connection that came too late for one lookup is there for the next."""
    mail.script("greeting", SLOW)
    with pgherald.daemon() as daemon:
        database.verify(*(database.add_plan("Café", f"{n}@example.org") for n in range(20)))
        mail.wait_for(20)
        daemon.wait_event("event_released")
    assert len(set(mail.recipients)) == 20
    assert {(event["state"], event["attempt"]) for event in database.events()} == {("sent", 1)}
    # Eight, unless this machine is so slow that one waits for longer than 5 s.
    assert mail.smtpd.connections < 20


@pytest.mark.slow
def test_consent_withdrawn_while_the_message_before_waits_for_its_reply_is_respected(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", SLOW, recipient="first@example.org")
    with pgherald.daemon(env=ONE):
        database.verify(database.add_plan("Café", "first@example.org"))
        mail.wait_reached("dot")
        database.verify(database.add_plan("Café", "second@example.org"))
        wait_until(lambda: database.value("SELECT count(*) FROM pgherald.outbox WHERE state = 'transmitting'") == 2)
        withdraw(database)
        wait_until(lambda: database.value("SELECT count(*) FROM pgherald.outbox WHERE reason = 'no_consent'") == 1)
    assert mail.recipients == ["first@example.org"]


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [False, True], ids=["withdrawn", "kept"])
def test_consent_is_asked_again_after_a_slow_reply_to_rset(
    database: Database, plain: MailServer, pgherald: Pgherald, keeps: bool
) -> None:
    plain.script("rcpt", answer("550 5.1.1 no such user"), recipient="gone@example.org")
    plain.script("rset", Action(delay=3))
    with pgherald.daemon(env={**ONE, "PGHERALD_SMTP_URL": plain.url}):
        database.verify(database.add_plan("Café", "gone@example.org"))
        wait_until(lambda: database.value("SELECT state FROM pgherald.outbox") == "failed")
        database.verify(database.add_plan("Café", "here@example.org"))
        plain.wait_reached("rset")
        if not keeps:
            withdraw(database)
        wait_until(lambda: [event["state"] for event in database.events()][1] in ("sent", "skipped"))
    assert plain.recipients == (["here@example.org"] if keeps else [])
    assert plain.smtpd.seen["rset"] == 1
