"""A reply that is lost after the dot: the same bytes go out once more, or none do, as the policy says."""

from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import swallow


def test_a_reply_lost_after_the_dot_is_sent_once_more_byte_for_byte(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", swallow(), times=1)
    database.verify(database.add_plan("Café", "a@example.org"))
    assert pgherald("run", "--once").returncode == 0
    [event] = database.events()
    assert (event["state"], event["reason"], event["in_doubt_count"]) == ("in_doubt", "no_reply", 1)
    database.execute("UPDATE public.plan SET place = 'Elsewhere'")
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
    with pgherald.daemon():
        first, second = mail.wait_for(2)
    assert first.data == second.data
    [event] = database.events()
    assert event["state"] == "sent"
    assert event["message"] is None
    assert event["recipient"] is None


def test_a_second_doubt_is_held(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", swallow(), times=2)
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once")
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
    with pgherald.daemon():
        wait_until(lambda: database.value("SELECT scheduled_at IS NULL FROM pgherald.outbox"))
    assert len(mail.messages) == 2


def test_policy_hold_sends_nothing_twice(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", swallow(), times=1)
    database.verify(database.add_plan("Café", "a@example.org"))
    done = pgherald("run", "--once", env={"PGHERALD_DELIVERY_IN_DOUBT": "hold"})
    assert "1 in doubt" in done.stderr
    assert database.value("SELECT scheduled_at IS NULL FROM pgherald.outbox")
