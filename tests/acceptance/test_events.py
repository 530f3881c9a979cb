"""The command events: which changes it makes, and which it refuses."""

import json

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import swallow

RULE = "dateplan_verified"


def state(database: Database) -> str:
    return str(database.value("SELECT state FROM pgherald.outbox"))


@pytest.fixture
def doubtful(database: Database, mail: MailServer, pgherald: Pgherald) -> int:
    """The id of an event in doubt, held for a person."""
    mail.script("dot", swallow(), times=1)
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once", env={"PGHERALD_DELIVERY_IN_DOUBT": "hold"})
    assert state(database) == "in_doubt"
    return int(database.value("SELECT id FROM pgherald.outbox"))


def test_resolve_as_sent(doubtful: int, database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    assert pgherald("events", "resolve", doubtful, "--as", "sent", "--dry-run").returncode == 0
    assert state(database) == "in_doubt"
    assert pgherald("events", "resolve", doubtful, "--as", "sent").returncode == 0
    assert state(database) == "sent"
    assert database.value("SELECT message IS NULL AND recipient IS NULL FROM pgherald.outbox")
    pgherald("run", "--once")
    assert len(mail.messages) == 1


def test_resolve_as_resend_sends_the_same_bytes(
    doubtful: int, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with pgherald.daemon(env={"PGHERALD_DELIVERY_POLL": "30s"}):
        pgherald("events", "resolve", RULE, "--state", "in_doubt", "--as", "resend", "--yes", check=True)
        first, second = mail.wait_for(2)
    assert first.data == second.data
    assert state(database) == "sent"


def test_what_is_sent_stays_sent(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once")
    [number] = [event["id"] for event in database.events()]
    for command in (["retry"], ["discard"], ["resolve", "--as", "resend"]):
        done = pgherald("events", *command, number)
        assert done.returncode == 1
        assert f"event {number} is sent" in done.stderr
    assert state(database) == "sent"


@pytest.mark.slow
def test_retry_after_the_reason_is_gone(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org", consent=False))
    pgherald("run", "--once")
    listed = json.loads(pgherald("events", "list", RULE, "--reason", "no_consent", "--json").stdout)
    assert [event["state"] for event in listed] == ["skipped"]
    database.execute("UPDATE public.users SET email_notifications_enabled = true")
    with pgherald.daemon(env={"PGHERALD_DELIVERY_POLL": "30s"}):
        pgherald("events", "retry", "--reason", "no_consent", "--yes", check=True)
        mail.wait_for(1)
    what = [entry["what"] for entry in database.events()[0]["history"]]
    assert what == ["claimed", "skipped", "retry", "claimed", "transmitting", "sent"]


@pytest.mark.slow
def test_a_limit_counts_what_can_be_helped(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    pgherald("run", "--once")
    assert pgherald("events", "retry", RULE, "--dry-run").stdout == "no event to retry\n"
    database.verify(database.add_plan("Café", "b@example.org", consent=False))
    pgherald("run", "--once")
    assert pgherald("events", "retry", RULE, "--limit", 1, "--yes").stdout == "1 event will be retried\n"


def test_discard(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    assert pgherald("events", "discard", RULE, "--older-than", "1h").stdout == "no event to discard\n"
    assert pgherald("events", "discard", RULE, "--older-than", "1h", "--dry-run").stdout == "no event to discard\n"
    # There is no terminal to ask on, and a filter may choose more than was meant.
    refused = pgherald("events", "discard", RULE)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "this would discard 1 event; confirm with --yes" in refused.stderr
    assert "without --dry-run: discard 1 event" in pgherald("events", "discard", RULE, "--dry-run").stderr
    assert database.value("SELECT state FROM pgherald.outbox") == "available"
    pgherald("events", "discard", RULE, "--older-than", "0d", "--yes", check=True)
    assert database.value("SELECT reason FROM pgherald.outbox") == "discarded"
    pgherald("events", "retry", database.value("SELECT id FROM pgherald.outbox"), check=True)


@pytest.mark.parametrize(
    "arguments",
    [["retry"], ["resolve", "1"], ["discard", "no_such_rule"], ["retry", "--key", "1"], ["list", "--state", "x"]],
)
def test_usage(database: Database, pgherald: Pgherald, arguments: list[str]) -> None:
    assert pgherald("events", *arguments).returncode == 2


@pytest.mark.parametrize("arguments", [("events", "list", "--reason"), ("install", "--grant-to")], ids=" ".join)
def test_an_argument_that_is_not_utf8(database: Database, pgherald: Pgherald, arguments: tuple[str, ...]) -> None:
    done = pgherald(*arguments, "\udcff")
    assert (done.returncode, done.stdout) == (2, "")
    assert "an argument has a byte that is not UTF-8; write it in UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
