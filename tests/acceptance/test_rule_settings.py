"""Two rules of one daemon, each with its own sender, answers, headers, doubt policy, age and attempts."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from listener.config.rules import default_rules
from tests.acceptance.test_reload_live import reloadable
from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, swallow

LOOKUP = default_rules()["dateplan_verified"].lookup
PLAIN, OWN = "dateplan_verified", "plan_rejected"
BOTH = f"""
[mail]
reply_to = "Help <help@example.org>"
[mail.headers]
X-Stream = "outbound"
X-Team = "plans"
[http]
listen = "off"
[rules.{PLAIN}]
table = "public.dateplan"
becomes = "VE"
template = "{PLAIN}"
lookup = '''{LOOKUP}'''
[rules.{OWN}]
table = "public.dateplan"
becomes = "RE"
template = "{PLAIN}"
lookup = '''{LOOKUP}'''
"""


@pytest.fixture(autouse=True)
def watched(pgherald: Pgherald) -> None:
    write(pgherald, "")
    pgherald("install", check=True)


def text(own: str, before: str = "") -> str:
    return before + BOTH + own


def write(pgherald: Pgherald, own: str, before: str = "") -> None:
    Path(pgherald.folder / "pgherald.toml").write_text(text(own, before), encoding="utf-8")


def reject(database: Database, plan: int) -> None:
    database.execute("UPDATE public.dateplan SET status = 'RE' WHERE id = %s", (plan,))


def one_of_each(database: Database, mark: str = "") -> None:
    database.verify(database.add_plan("Café", f"plain{mark}@example.org"))
    reject(database, database.add_plan("Café", f"own{mark}@example.org"))


def by_reader(mail: MailServer, number: int) -> dict[str, tuple[str, ...]]:
    """Return the envelope's sender and the headers of each message, by the part of its recipient before the @."""
    names = ("From", "Reply-To", "X-Stream", "X-Team", "X-Own")
    return {
        got.recipient.partition("@")[0]: (got.sender, *(str(got.email[name]) for name in names))
        for got in mail.wait_for(number)
    }


def test_each_rule_has_its_sender_and_headers_and_a_reload_changes_them(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    own = (
        'from_address = "Board <board@other.example>"\nreply_to = []\n'
        f'[rules.{OWN}.headers]\nx-stream = "board"\nX-Own = "1"\n'
    )
    section = ("no-reply@example.org", "Date Plans <no-reply@example.org>", "Help <help@example.org>")
    with reloadable(pgherald, text(own), {"PGHERALD_HTTP_LISTEN": "off"}) as (_, reload):
        one_of_each(database)
        assert by_reader(mail, 2) == {
            "plain": (*section, "outbound", "plans", "None"),
            "own": ("board@other.example", "Board <board@other.example>", "None", "board", "plans", "1"),
        }
        events = json.loads(pgherald("events", "list", "--json", check=True).stdout)
        domains = {event["rule"]: event["message_id"].partition("@")[2] for event in events}
        assert domains == {PLAIN: "example.org>", OWN: "other.example>"}
        assert {str(got.email["Message-ID"]).partition("@")[2] for got in mail.messages} == set(domains.values())
        reload(text('reply_to = "board@example.org"\n'))
        one_of_each(database, "2")
        received = by_reader(mail, 4)
        assert received["plain2"] == received["plain"]
        assert received["own2"] == (*section[:2], "board@example.org", "outbound", "plans", "None")
    shown = pgherald("preview", OWN, check=True).stdout
    assert "Reply-To: board@example.org\n" in shown
    told = pgherald("send-test", "--to", "me@example.org", "--rule", OWN, check=True).stdout
    assert told.startswith("from no-reply@example.org to me@example.org")


def test_bounces_go_to_envelope_from_whatever_the_rules_sender_is(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    write(pgherald, 'from_address = "board@other.example"\n')
    one_of_each(database)
    pgherald("run", "--once", env={"PGHERALD_MAIL_ENVELOPE_FROM": "bounces@example.org"}, check=True)
    assert {got[0] for got in by_reader(mail, 2).values()} == {"bounces@example.org"}


@pytest.mark.slow
def test_attempts_and_age_are_those_of_the_rule(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    write(pgherald, 'max_attempts = 1\nmax_age = "off"\n', '[delivery]\nmax_age = "1h"\n')
    mail.script("rcpt", answer("450 4.2.1 busy"))
    one_of_each(database)
    pgherald("run", "--once")
    plain, own = database.events()
    assert (plain["state"], plain["attempt"]) == ("available", 1)
    assert (own["state"], own["attempt"]) == ("failed", 1)
    mail.forget_script()
    one_of_each(database, "2")
    database.execute("UPDATE pgherald.outbox SET captured_at = captured_at - interval '1 day', scheduled_at = now()")
    pgherald("run", "--once", check=True)
    states = [(event["rule"], event["state"], event["reason"]) for event in database.events()]
    assert states[2:] == [(PLAIN, "skipped", "expired"), (OWN, "sent", None)]


@pytest.mark.slow
@pytest.mark.parametrize("of_section", ["resend", repeats("hold")])
def test_of_two_rules_one_resends_and_one_holds(
    database: Database, mail: MailServer, pgherald: Pgherald, of_section: str
) -> None:
    """The reply is lost after the dot, and another daemon with the same configuration goes on."""
    other = {"resend": "hold", "hold": "resend"}[of_section]
    write(pgherald, f'in_doubt = "{other}"\n', f'[delivery]\nin_doubt = "{of_section}"\nlease = "1s"\n')
    held, resent = (OWN, PLAIN) if other == "hold" else (PLAIN, OWN)
    mail.script("dot", swallow(), times=2)
    one_of_each(database)
    pgherald("run", "--once")
    doubts = {event["rule"]: event for event in database.events()}
    assert {event["state"] for event in doubts.values()} == {"in_doubt"}
    assert doubts[held]["scheduled_at"] is None
    assert doubts[resent]["scheduled_at"] is not None
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE scheduled_at IS NOT NULL")
    with pgherald.daemon() as daemon:
        daemon.wait_event("event_sent", rule=resent)
        # Everything that could send the other one again has had its turn.
        later = database.value("SELECT now() + interval '3 seconds'")
        wait_until(lambda: database.value("SELECT max(seen_at) > %s FROM pgherald.worker", (later,)))
    assert len(mail.messages) == 3
    assert {event["rule"]: event["state"] for event in database.events()} == {held: "in_doubt", resent: "sent"}


AGAIN = 'again_after = "7d"\n'


def flap(database: Database, plan: int) -> None:
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
    reject(database, plan)


def test_a_row_that_flaps_has_one_email_within_again_after(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    write(pgherald, AGAIN)
    plan = database.add_plan("Café", "own@example.org")
    reject(database, plan)
    pgherald("run", "--once", check=True)
    flap(database, plan)
    pgherald("run", "--once", check=True)
    first, second = database.events()
    assert (first["state"], second["state"], second["reason"]) == ("sent", "skipped", "repeated")
    told = pgherald("explain", OWN, plan, check=True).stdout
    assert f"the last email was sent {first['settled_at'].astimezone():%Y}" in told
    assert "skipped (repeated)" in told
    # A rule without it mails twice, and so does this one when the time is over.
    database.execute("UPDATE pgherald.outbox SET settled_at = settled_at - interval '7 days' WHERE state = 'sent'")
    flap(database, plan)
    pgherald("run", "--once", check=True)
    for _ in range(2):
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
        database.verify(plan)
        pgherald("run", "--once", check=True)
    assert [(event["rule"], event["state"]) for event in database.events()][2:] == [
        (OWN, "sent"),
        (PLAIN, "sent"),
        (PLAIN, "sent"),
    ]
    assert len(mail.messages) == 4


@pytest.mark.slow
def test_purge_keeps_what_again_after_needs(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    write(pgherald, AGAIN)
    plan, other = database.add_plan("Café", "own@example.org"), database.add_plan("Café", "plain@example.org")
    reject(database, plan)
    database.verify(other)
    pgherald("run", "--once", check=True)
    database.execute("UPDATE pgherald.outbox SET settled_at = settled_at - interval '6 days'")
    assert pgherald("purge", "--older-than", "1d", check=True).stdout == "1 event purged\n"
    flap(database, plan)
    pgherald("run", "--once", check=True)
    assert [event["reason"] for event in database.events()] == [None, "repeated"]
    database.execute("UPDATE pgherald.outbox SET settled_at = settled_at - %s", (timedelta(days=8),))
    assert pgherald("purge", "--older-than", "1d", check=True).stdout == "2 events purged\n"
    assert len(mail.messages) == 2


@pytest.mark.slow
def test_an_event_waits_while_another_of_its_row_is_in_doubt(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """It is held, and a person says that it was sent. Without the look at it, the row had two emails."""
    write(pgherald, AGAIN + 'in_doubt = "hold"\n')
    mail.script("dot", swallow(), times=1)
    plan = database.add_plan("Café", "own@example.org")
    reject(database, plan)
    pgherald("run", "--once")
    flap(database, plan)
    pgherald("run", "--once")
    first, second = database.events()
    assert (first["state"], second["state"], second["reason"]) == ("in_doubt", "available", "earlier_in_doubt")
    assert len(mail.messages) == 1
    pgherald("events", "resolve", first["id"], "--as", "sent", check=True)
    database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'available'")
    pgherald("run", "--once", check=True)
    assert [event["reason"] for event in database.events()][1] == "repeated"
    assert len(mail.messages) == 1


@pytest.mark.slow
@pytest.mark.slow
def test_a_daemon_killed_after_the_dot_sends_one_copy_and_no_second_email(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The first event is in doubt and is sent once more; the second must not slip in between."""
    write(pgherald, AGAIN, '[delivery]\nlease = "1s"\n')
    mail.script("dot", swallow(), times=1)
    plan = database.add_plan("Café", "own@example.org")
    with pgherald.daemon() as daemon:
        reject(database, plan)
        mail.wait_reached("dot")
        daemon.kill()
    flap(database, plan)
    with pgherald.daemon():
        wait_until(lambda: [event["state"] for event in database.events()] == ["sent", "skipped"])
    assert database.events()[1]["reason"] in ("repeated", "superseded")
    first, second = mail.wait_for(2)
    assert first.data == second.data
