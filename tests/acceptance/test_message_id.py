"""An email's name leads both ways: from the event to the mail server's log, and from there back to the event."""

import json
import re
from urllib.parse import quote

import pytest

from listener.db.schema import read_secret
from listener.message_id import read_message_id
from tests.support import repeats
from tests.support.client import KEY as FOREIGN
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, swallow
from tests.support.web import Client

RULE = "dateplan_verified"


@pytest.fixture
def sent(database: Database, mail: MailServer, pgherald: Pgherald) -> str:
    """Send an email among others, and return its Message-ID."""
    database.verify(*(database.add_plan("Café", f"{n}@example.org") for n in range(3)))
    assert pgherald("run", "--once").returncode == 0
    [name] = [str(message.email["Message-ID"]) for message in mail.messages if message.recipient == "1@example.org"]
    assert re.fullmatch(r"<[a-z2-7]{26}@example\.org>", name)
    return name


def key_of(name: str) -> str:
    return name[1:].partition("@")[0]


@pytest.mark.slow
def test_the_commands_and_the_page_show_it(database: Database, pgherald: Pgherald, sent: str) -> None:
    number, row = database.execute("SELECT id, key FROM pgherald.outbox ORDER BY id")[1]
    assert f"  Message-ID {sent}\n" in pgherald("explain", RULE, row).stdout
    [event] = json.loads(pgherald("explain", RULE, row, "--json").stdout)["events"]
    assert event["message_id"] == sent
    [line] = [line for line in pgherald("events", "list").stdout.splitlines() if line.startswith(f" {number} ")]
    assert key_of(sent) in line
    listed = {event["id"]: event for event in json.loads(pgherald("events", "list", "--json").stdout)}
    assert listed[number]["message_id"] == sent
    with pgherald.daemon(env={"PGHERALD_HTTP_LISTEN": "127.0.0.1:0"}) as daemon:
        client = Client(daemon)
        assert key_of(sent) in client.get("/").text
        assert key_of(sent) in client.get(f"/explain?rule={RULE}&key={quote(row)}").text


@pytest.mark.parametrize(
    "form", ["{0}", *map(repeats, (" {0}. ", "{1}@example.org", "{1}", "ENVID={1}", "message-id={0}, size=4711"))]
)
def test_it_leads_back_to_the_event_alone(database: Database, pgherald: Pgherald, sent: str, form: str) -> None:
    number, row = database.execute("SELECT id, key FROM pgherald.outbox ORDER BY id")[1]
    database.verify(int(row))
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (int(row),))
    database.verify(int(row))
    text = form.format(sent, key_of(sent))
    told = json.loads(pgherald("explain", "--message", text.upper(), "--json", check=True).stdout)
    assert (told["rule"], told["key"], [event["id"] for event in told["events"]]) == (RULE, row, [number])
    assert told["events"][0]["message_id"] == sent
    lines = pgherald("explain", "--message", text, check=True).stdout.splitlines()
    assert lines[:3] == [f"{RULE} {row}", f"event {number}: sent, attempt 1", f"  Message-ID {sent}"]


@pytest.mark.slow
def test_every_line_of_the_log_about_an_event_has_it(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("rcpt", answer("450 4.2.1 busy"), recipient="later@example.org", times=1)
    mail.script("rcpt", answer("550 5.1.1 no such user"), recipient="gone@example.org")
    mail.script("dot", swallow(), recipient="doubt@example.org", times=1)
    names = ("later", "gone", "doubt", "sent")
    with pgherald.daemon() as daemon:
        database.verify(*(database.add_plan("Café", f"{name}@example.org") for name in names))
        database.verify(database.add_plan("Café", "silent@example.org", consent=False))
        for outcome in ("sent", "deferred", "failed", "in_doubt", "skipped"):
            daemon.wait_event(f"event_{outcome}")
        lines = [event for event in daemon.events if event["event"].startswith("event_")]
    secret = read_secret(database.connect())
    for line in lines:
        assert read_message_id(secret, line["message_id"]) == (line["message_id"], line["event_id"])
    [message] = [message for message in mail.messages if message.recipient == "sent@example.org"]
    [line] = [line for line in lines if line["event"] == "event_sent"]
    assert line["message_id"] == key_of(message.email["Message-ID"]) == message.email["X-Pgherald-Key"]
    assert f"ENVID={line['message_id']}" in message.mail_parameters


@pytest.mark.parametrize(
    "text",
    [
        "<3ebqgcaxgzk6rhfw3qteqncekm@example.org>",
        *map(repeats, ("", "jane@example.org", f"<{FOREIGN}@b.example>", "x" * 5000)),
    ],
)
def test_another_name_is_refused(pgherald: Pgherald, sent: str, text: str) -> None:
    done = pgherald("explain", "--message", text)
    assert done.returncode == 2
    assert "is not a Message-ID of this database; " in done.stderr
    assert len(done.stderr) < 1000


def test_a_name_with_a_changed_character_is_refused(pgherald: Pgherald, sent: str) -> None:
    changed = sent.replace(sent[5], "b" if sent[5] != "b" else "c", 1)
    assert pgherald("explain", "--message", changed).returncode == 2


@pytest.mark.parametrize("how", ["purged", "restored"])
@pytest.mark.slow
def test_an_event_that_is_gone_is_said_to_be_gone(database: Database, pgherald: Pgherald, sent: str, how: str) -> None:
    """After a restore the id may belong to another event, which is not taken for this one."""
    if how == "purged":
        database.execute("DELETE FROM pgherald.outbox")
    else:
        database.execute("UPDATE pgherald.outbox SET captured_at = captured_at + interval '1 second'")
    done = pgherald("explain", "--message", sent)
    assert done.returncode == 1
    assert "is not in the outbox any more" in done.stderr


@pytest.mark.slow
def test_a_row_or_an_email_is_named_and_not_both(pgherald: Pgherald) -> None:
    for arguments in ([], [RULE], [RULE, "1", "--message", "x"], [RULE, "--message", "x"]):
        assert pgherald("explain", *arguments).returncode == 2


@pytest.mark.slow
def test_the_domain_is_that_of_the_present_sender_and_the_key_stays(pgherald: Pgherald, sent: str) -> None:
    env = {"PGHERALD_MAIL_FROM": "a@b.example"}
    told = json.loads(pgherald("explain", "--message", sent, "--json", env=env).stdout)
    assert told["events"][0]["message_id"] == f"<{key_of(sent)}@b.example>"
