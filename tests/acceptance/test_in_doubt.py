"""A reply that is lost after the dot: the same bytes go out once more, or none do, as the policy says."""

import asyncio
from dataclasses import replace

import pytest

from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import stall, swallow


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


def doubt(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Make one event whose reply was lost, and whose time to be sent again has come."""
    mail.script("dot", swallow(), times=1)
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once")
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.users SET email = 'new@example.org'",
        "WITH other AS (INSERT INTO public.users (email, email_notifications_enabled) VALUES ('o@example.org', true)"
        " RETURNING id) UPDATE public.dateplan SET user_id = other.id FROM other",
    ],
    ids=["the owner's address", "the row's owner"],
)
def test_a_second_sending_whose_address_has_changed_waits_for_a_person(
    database: Database, mail: MailServer, pgherald: Pgherald, change: str
) -> None:
    doubt(database, mail, pgherald)
    database.execute(change)  # type: ignore[arg-type]
    with pgherald.daemon() as daemon:
        daemon.wait_event("event_in_doubt", reason="moved")
    assert mail.recipients == ["a@example.org"]
    [event] = database.events()
    assert (event["state"], event["reason"], event["scheduled_at"]) == ("in_doubt", "moved", None)
    assert "a***@example.org" in event["history"][-1]["detail"]
    assert pgherald("events", "resolve", event["id"], "--as", "sent").returncode == 0
    assert database.events()[0]["state"] == "sent"


@pytest.mark.slow
def test_an_event_that_moved_may_be_sent_to_the_new_address_by_a_person(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    doubt(database, mail, pgherald)
    database.execute("UPDATE public.users SET email = 'new@example.org'")
    pgherald("run", "--once")
    pgherald("run", "--once")
    [event] = database.events()
    assert event["reason"] == "moved"
    for action in ("discard", "retry"):
        assert pgherald("events", action, event["id"]).returncode == 0
    assert pgherald("run", "--once").returncode == 0
    assert mail.recipients == ["a@example.org", "new@example.org"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE public.users SET email_notifications_enabled = false", "no_consent"),
        repeats("UPDATE public.users SET email = NULL", "no_recipient"),
        repeats("UPDATE public.dateplan SET status = 'PE'", "reverted"),
        repeats("DELETE FROM public.dateplan", "row_gone"),
    ],
)
def test_before_a_second_sending_consent_is_asked_again(
    database: Database, mail: MailServer, pgherald: Pgherald, change: str, reason: str
) -> None:
    doubt(database, mail, pgherald)
    database.execute(change)  # type: ignore[arg-type]
    with pgherald.daemon():
        wait_until(lambda: database.events()[0]["reason"] == reason)
    assert mail.recipients == ["a@example.org"]


@pytest.mark.parametrize("policies", [("hold", "resend"), ("resend", "hold")], ids="-".join)
@pytest.mark.slow
def test_of_two_daemons_policies_the_stricter_one_counts(
    database: Database, mail: MailServer, pgherald: Pgherald, policies: tuple[str, str]
) -> None:
    """The first is killed while it waits for the reply. The second one rescues the event."""
    mail.script("dot", stall(), times=1)
    first, second = ({"PGHERALD_DELIVERY_IN_DOUBT": policy, "PGHERALD_DELIVERY_LEASE": "1s"} for policy in policies)
    with pgherald.daemon(env=first) as killed:
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_reached("dot")
        with pgherald.daemon(env=second) as other:
            killed.kill()
            other.wait_event("workers_rescued")
            wait_looks(database)
    [event] = database.events()
    assert (event["state"], event["reason"], event["scheduled_at"]) == ("in_doubt", "worker_gone", None)
    assert mail.smtpd.seen["dot"] == 1


@pytest.mark.slow
def test_a_doubt_under_resend_waits_while_a_daemon_holds_doubts(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The first has the event to itself. Both are there when its time comes."""
    gate = asyncio.Event()
    mail.script("dot", replace(swallow(), gate=gate), times=1)
    with pgherald.daemon(env={"PGHERALD_DELIVERY_LEASE": "1s"}) as lax:
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_reached("dot")
        with pgherald.daemon(env={"PGHERALD_DELIVERY_IN_DOUBT": "hold", "PGHERALD_DELIVERY_LEASE": "1s"}):
            mail.open(gate)
            lax.wait_event("event_in_doubt")
            database.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
            wait_looks(database)
            assert len(mail.messages) == 1
        mail.wait_for(2)


def wait_looks(database: Database) -> None:
    """Wait for what a second sending would take: the end of a lease, and the looks that come once a second."""
    later = database.value("SELECT now() + interval '3 seconds'")
    wait_until(lambda: database.value("SELECT max(seen_at) > %s FROM pgherald.worker", (later,)))
