"""A staging system sends to allowed recipients only, and its events take the same states as with a server."""

import email
import email.policy
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import swallow

RULE = "dateplan_verified"


def outcomes(database: Database) -> Counter[tuple[str, str | None]]:
    return Counter((event["state"], event["reason"]) for event in database.events())


def history(database: Database, pgherald: Pgherald, plan: int) -> list[str]:
    told = json.loads(pgherald("explain", RULE, plan, "--json", check=True).stdout)
    return [entry["what"] for event in told["events"] for entry in event["history"]]


@pytest.mark.slow
def test_only_who_is_allowed_gets_mail(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [database.add_plan("Café", to) for to in ("a@example.org", "b@example.com", "c@example.com")]
    database.verify(*plans)
    env = {"PGHERALD_MAIL_ALLOWED_RECIPIENTS": "@example.org,B@example.com"}
    assert pgherald("run", "--once", env=env).returncode == 0
    assert sorted(mail.recipients) == ["a@example.org", "b@example.com"]
    assert outcomes(database) == {("sent", None): 2, ("skipped", "not_allowed"): 1}
    said = pgherald("explain", RULE, plans[2]).stdout
    assert "c***@example.com is not in mail.allowed_recipients" in said
    # Allowed after all, it goes out when somebody says so.
    pgherald("events", "retry", RULE, "--reason", "not_allowed", "--yes", check=True)
    assert pgherald("run", "--once").returncode == 0
    assert outcomes(database) == {("sent", None): 3}


def test_all_mail_is_redirected(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(*(database.add_plan("Café", to) for to in ("anna@example.com", "ben@example.net")))
    done = pgherald("run", "--once", env={"PGHERALD_MAIL_REDIRECT_TO": "qa@example.org"})
    assert done.returncode == 0
    messages = mail.wait_for(2)
    assert {message.recipient for message in messages} == {"qa@example.org"}
    assert {message.email["To"] for message in messages} == {"qa@example.org"}
    assert {message.email["X-Original-To"] for message in messages} == {"a***@example.com", "b***@example.net"}
    assert not any(b"anna@" in message.data or b"ben@" in message.data for message in messages)
    staging = next(json.loads(line) for line in done.stderr.splitlines() if '"mail_restricted"' in line)
    assert (staging["level"], staging["transport"], staging["redirect_to"]) == ("warning", "smtp", "q***@example.org")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "recipients", "end"),
    [
        ({"PGHERALD_MAIL_ALLOWED_RECIPIENTS": "@example.org"}, [], ("skipped", "not_allowed")),
        repeats({"PGHERALD_MAIL_REDIRECT_TO": "qa@example.org"}, ["qa@example.org"], ("sent", None)),
    ],
    ids=["allow", "redirect"],
)
def test_what_a_dump_of_production_brings_goes_to_nobody_real(
    database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    env: dict[str, str],
    recipients: list[str],
    end: tuple[str, str | None],
) -> None:
    plan = database.add_plan("Café", "anna@example.com")
    database.verify(plan)
    mail.script("dot", swallow())
    pgherald("run", "--once")
    assert outcomes(database) == {("in_doubt", "no_reply"): 1}
    mail.forget_script()
    before = len(mail.messages)
    # By now the owner's address is one that is allowed; the kept bytes are addressed to the old one.
    if "PGHERALD_MAIL_ALLOWED_RECIPIENTS" in env:
        database.execute("UPDATE public.users SET email = 'anna@example.org'")
    with pgherald.daemon(env=env):
        wait_until(lambda: outcomes(database) == {end: 1})
    assert mail.recipients[before:] == recipients


def test_into_a_maildir(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    folder = tmp_path / "mail" / "dir"
    env = {"PGHERALD_MAIL_TRANSPORT": "file", "PGHERALD_MAIL_DIRECTORY": str(folder)}
    plans = [database.add_plan(f"Café {number}", f"a{number}@example.org") for number in range(20)]
    database.verify(*plans)
    assert pgherald("run", "--once", env=env).returncode == 0
    assert outcomes(database) == {("sent", None): 20}
    files = sorted((folder / "new").iterdir())
    assert len(files) == 20
    assert {file.suffix for file in files} == {".eml"}
    assert list((folder / "tmp").iterdir()) == list((folder / "cur").iterdir()) == []
    message = email.message_from_bytes(files[0].read_bytes(), policy=email.policy.default)
    assert not message.defects
    assert message["Delivered-To"] == message["To"]
    assert message["Return-Path"] == "<no-reply@example.org>"
    assert message["Message-ID"] == f"<{files[0].stem}@example.org>"
    assert "Congratulations!" in message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert mail.smtpd.connections == 0

    with_server = database.add_plan("Café", "b@example.org")
    database.verify(with_server)
    assert pgherald("run", "--once").returncode == 0
    assert history(database, pgherald, plans[0]) == history(database, pgherald, with_server)


@pytest.mark.slow
def test_a_maildir_that_cannot_be_written_to_is_the_servers_trouble(
    database: Database, pgherald: Pgherald, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    env = {"PGHERALD_MAIL_TRANSPORT": "file", "PGHERALD_MAIL_DIRECTORY": str(tmp_path / "file")}
    database.verify(database.add_plan("Café", "a@example.org"))
    done = pgherald("run", "--once", env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [event] = database.events()
    assert (event["state"], event["attempt"]) == ("available", 0)
    # The obstacle is gone, and the same events go out.
    (tmp_path / "file").unlink()
    with pgherald.daemon(env=env):
        wait_until(lambda: outcomes(database) == {("sent", None): 1})


def test_onto_the_screen(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café \x1b[31mÜ\x9b1m", "a@example.org"))
    done = pgherald("run", "--once", env={"PGHERALD_MAIL_TRANSPORT": "console"}, check=True)
    assert outcomes(database) == {("sent", None): 1}
    lines = done.stdout.splitlines()
    assert "To: a@example.org" in lines
    assert "Subject: Your DatePlan is now verified 🎉" in lines
    assert "Congratulations! Your date plan at Café [31mÜ1m is now verified." in lines
    assert "\x1b" not in done.stdout
    assert mail.smtpd.connections == 0
