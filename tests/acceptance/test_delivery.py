"""A row becomes 'VE' and its owner gets the email: the installed command on a real database and a real mail server."""

from tests.support.backlog import reasons
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer


def test_the_mail_of_the_seed(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café Zürich", "anna@example.org")
    with pgherald.daemon():
        database.verify(plan)
        [received] = mail.wait_for(1)
    assert received.recipient == "anna@example.org"
    message = received.email
    assert message["Subject"] == "Your DatePlan is now verified 🎉"
    assert message["From"] == "Date Plans <no-reply@example.org>"
    text, html = message.iter_parts()
    sentence = "Congratulations! Your date plan at Café Zürich is now verified."
    assert text.get_content().splitlines()[0] == sentence
    assert html.get_content_type() == "text/html"
    assert "Café Zürich" in html.get_content()
    assert not message.defects


def test_who_gets_none_and_why(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [
        database.add_plan("Café", "a@example.org", consent=False),
        database.add_plan("Café", "b@example.org", consent=None),
        database.add_plan("Café", None),
        database.add_plan("Café", "  "),
        database.add_plan(None, "c@example.org"),
        database.add_plan("Café", "not an address"),
    ]
    plans += [row[0] for row in database.execute("INSERT INTO public.dateplan DEFAULT VALUES RETURNING id")]
    database.verify(*plans)
    done = pgherald("run", "--once")
    assert done.returncode == 0, done.stderr
    assert sorted(reasons(database)) == [
        ("failed", "bad_address"),
        ("skipped", "incomplete"),
        ("skipped", "no_consent"),
        ("skipped", "no_consent"),
        ("skipped", "no_recipient"),
        ("skipped", "no_recipient"),
        ("skipped", "no_recipient"),
    ]
    assert mail.messages == []
    assert "Traceback" not in done.stderr


def test_what_became_of_the_row_meanwhile(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    gone, back, twice = (database.add_plan("Café", f"{name}@example.org") for name in ("gone", "back", "twice"))
    database.verify(gone, back, twice)
    database.execute("DELETE FROM public.dateplan WHERE id = %s", (gone,))
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = ANY (%s)", ([back, twice],))
    database.verify(twice)
    assert pgherald("run", "--once").returncode == 0
    assert reasons(database) == [
        ("skipped", "row_gone"),
        ("skipped", "reverted"),
        ("skipped", "superseded"),
        ("sent", None),
    ]
    assert mail.recipients == ["twice@example.org"]


def test_an_event_of_its_own_after_the_mail(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café", "a@example.org")
    with pgherald.daemon():
        database.verify(plan)
        mail.wait_for(1)
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
        database.verify(plan)
        mail.wait_for(2)
    assert [event["state"] for event in database.events()] == ["sent", "sent"]


def test_too_old(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    database.execute("UPDATE pgherald.outbox SET captured_at = now() - interval '2 days'")
    assert pgherald("run", "--once", env={"PGHERALD_DELIVERY_MAX_AGE": "24h"}).returncode == 0
    assert reasons(database) == [("skipped", "expired")]


def test_the_date_is_that_of_the_sending_by_the_databases_clock(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """Servers take an old Date for a sign of spam, and some refuse it. The change may be days old."""
    database.verify(database.add_plan("Café", "a@example.org"))
    database.execute("UPDATE pgherald.outbox SET captured_at = now() - interval '8 days'")
    began = database.value("SELECT date_trunc('second', now())")
    assert pgherald("run", "--once").returncode == 0
    [message] = mail.messages
    assert began <= message.email["Date"].datetime <= database.value("SELECT now()")


def test_one_bad_row_holds_up_nobody(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    good, huge = database.add_plan("Café", "good@example.org"), database.add_plan("x" * 2_000_000, "huge@example.org")
    database.verify(huge, good)
    assert pgherald("run", "--once").returncode == 0
    assert sorted(reasons(database)) == [("failed", "too_large"), ("sent", None)]
