"""A row becomes 'VE', its owner gets the mail: the installed command on a real database and a real mail server."""

import json
import signal
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from listener.config.rules import default_rules
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, drop, swallow, wait

RULE = "dateplan_verified"


def states(database: Database) -> Counter[str]:
    return Counter(event["state"] for event in database.events())


def reasons(database: Database) -> list[tuple[str, str | None]]:
    return [(event["state"], event["reason"]) for event in database.events()]


def add_plans(database: Database, number: int) -> range:
    database.execute(
        """WITH u AS (INSERT INTO public.users (email, email_notifications_enabled)
                      SELECT 'u' || g || '@example.org', true FROM generate_series(1, %(n)s) AS g RETURNING id),
                p AS (INSERT INTO public.plan (place) VALUES ('Café') RETURNING id)
           INSERT INTO public.dateplan (user_id, plan_id) SELECT u.id, p.id FROM u, p""",
        {"n": number},
    )
    (first,) = database.execute("SELECT min(id) FROM public.dateplan")[0]
    return range(first, first + number)


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


def test_two_events_of_a_row_far_apart_in_a_backlog_give_one_mail(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 120)
    database.verify(*plans)
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plans[0],))
    database.verify(plans[0])
    assert pgherald("run", "--once", env={"PGHERALD_SMTP_CONNECTIONS": "1"}).returncode == 0
    wait_until(lambda: pgherald("run", "--once").returncode == 0 and not states(database)["available"])
    assert Counter(mail.recipients).most_common(1)[0][1] == 1
    assert len(mail.recipients) == 120
    assert reasons(database).count(("skipped", "superseded")) == 1


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


def test_one_bad_row_holds_up_nobody(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    good, huge = database.add_plan("Café", "good@example.org"), database.add_plan("x" * 2_000_000, "huge@example.org")
    database.verify(huge, good)
    assert pgherald("run", "--once").returncode == 0
    assert sorted(reasons(database)) == [("failed", "too_large"), ("sent", None)]


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
    assert "the events are kept" in last
    assert "[smtp] url" in last
    assert states(database) == {"available": events}


def test_sigterm_in_a_backlog_sends_nothing_twice_and_leaves_nothing_claimed(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 1000)
    database.verify(*plans)
    mail.script("dot", wait(0.01))
    with pgherald.daemon() as daemon:
        wait_until(lambda: len(mail.messages) > 100)
        assert daemon.stop() == 0
    left = states(database)
    assert set(left) == {"sent", "available"}
    assert left["sent"] == len(mail.messages)
    assert database.value("SELECT count(*) FROM pgherald.worker") == 0
    mail.forget_script()
    assert pgherald("run", "--once").returncode == 0
    assert sorted(mail.recipients) == sorted({f"u{g}@example.org" for g in range(1, 1001)})


def test_a_second_sigterm_ends_it_at_once(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", wait(30))
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon() as daemon:
        mail.wait_reached("dot")
        daemon.signal(signal.SIGTERM)
        daemon.wait_event("stopping")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 1
    assert states(database) == {"transmitting": 1}


def test_when_grace_is_over_what_has_no_reply_is_in_doubt(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", wait(60))
    database.verify(database.add_plan("Café", "a@example.org"))
    with pgherald.daemon(env={"PGHERALD_DELIVERY_GRACE": "1s"}) as daemon:
        mail.wait_reached("dot")
        assert daemon.stop(20) == 0
        daemon.wait_event("shutdown_timeout")
    assert states(database) == {"in_doubt": 1}


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_kill_9_in_a_backlog(database: Database, mail: MailServer, pgherald: Pgherald, policy: str) -> None:
    # What is marked waits for the end of the lease. On a busy machine a shorter one ends by itself, and nothing is marked.
    env = {"PGHERALD_DELIVERY_IN_DOUBT": policy, "PGHERALD_DELIVERY_LEASE": "3s"}
    plans = add_plans(database, 2000)
    database.verify(*plans)
    mail.script("dot", wait(0.02))
    with pgherald.daemon(env=env) as daemon:
        wait_until(lambda: len(mail.messages) > 50 and states(database)["transmitting"])
        daemon.kill()
    marked = states(database)["transmitting"]
    assert 0 < marked <= 16
    mail.forget_script()
    with pgherald.daemon(env=env):
        wait_until(lambda: not {"available", "claimed", "transmitting"} & set(states(database)), 80)
        if policy == "resend":
            wait_until(lambda: states(database) == {"sent": 2000})
    came = Counter(mail.recipients)
    doubled = sum(count - 1 for count in came.values())
    print(f"{policy}: {marked} were transmitting, {doubled} came twice, {2000 - len(came)} never")
    if policy == "hold":
        assert doubled == 0
        assert states(database) == {"sent": 2000 - marked, "in_doubt": marked}
        missing = 2000 - len(came)
        assert missing <= marked
    else:
        assert len(came) == 2000
        assert doubled <= marked


def test_no_more_are_transmitting_than_twice_the_connections(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    mail.script("dot", wait(0.05))
    database.verify(*add_plans(database, 60))
    most = 0
    with pgherald.daemon(env={"PGHERALD_SMTP_CONNECTIONS": "2"}), psycopg.connect(database.url, autocommit=True) as eye:
        while len(mail.messages) < 60:
            row = eye.execute("SELECT count(*) FROM pgherald.outbox WHERE state = 'transmitting'").fetchone()
            assert row is not None
            most = max(most, row[0])
    assert 0 < most <= 4


def test_sighup_takes_good_templates_and_refuses_bad_ones(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text("First {{ place }}")
    with pgherald.daemon(env={"PGHERALD_MAIL_TEMPLATES": str(tmp_path / "templates")}) as daemon:
        (folder / "body.txt.j2").write_text("Broken {{ nothing_of_the_kind }}")
        daemon.signal(signal.SIGHUP)
        assert "nothing_of_the_kind" in daemon.wait_event("reload_refused")["error"]
        database.verify(database.add_plan("Café", "a@example.org"))
        mail.wait_for(1)
        (folder / "body.txt.j2").write_text("Second {{ place }}")
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("reloaded")
        database.verify(database.add_plan("Café", "b@example.org"))
        first, second = mail.wait_for(2)
    assert first.email.get_body(("plain",)).get_content().startswith("First Café")
    assert second.email.get_body(("plain",)).get_content().startswith("Second Café")


def test_a_rule_taken_out_while_its_mail_waits_for_its_slot(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    database.execute("SELECT pgherald.watch('applied', 'public.dateplan', value => 'AP')")
    verified = default_rules()[RULE].lookup
    rule = (
        f'[rules.{{}}]\ntable = "public.dateplan"\nbecomes = "{{}}"\ntemplate = "{RULE}"\nlookup = """{verified}"""\n'
    )
    without = "[smtp]\nrate = 8\n" + rule.format(RULE, "VE")
    both = without + rule.format("applied", "AP")
    config = tmp_path / "pgherald.toml"
    config.write_text(both)
    plans = add_plans(database, 8)
    with pgherald.daemon("--config", str(config)) as daemon:
        database.execute("UPDATE public.dateplan SET status = 'AP' WHERE id BETWEEN %s AND %s", (plans[0], plans[-1]))
        # Of the four that may go in half a second, three wait.
        mail.wait_for(1)
        config.write_text(without)
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("reloaded", rules=[RULE])
        mail.wait_for(4)
        config.write_text(both)
        daemon.signal(signal.SIGHUP)
        mail.wait_for(8)
    assert states(database) == {"sent": 8}


def test_a_rule_that_breaks_while_running_is_held_and_nothing_fails(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with pgherald.daemon() as daemon:
        plan = database.add_plan("Café", "a@example.org")
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO consent")
        database.verify(plan)
        daemon.wait_event("rule_suspended")
        wait_until(lambda: states(database) == {"available": 1})
        database.execute("ALTER TABLE public.users RENAME COLUMN consent TO email_notifications_enabled")
        mail.wait_for(1)
    assert states(database) == {"sent": 1}


@pytest.mark.slow
def test_ten_thousand_in_one_statement_while_nobody_listens(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = add_plans(database, 10_000)
    database.execute("UPDATE public.dateplan SET status = 'VE' WHERE id BETWEEN %s AND %s", (plans[0], plans[-1]))
    with pgherald.daemon():
        wait_until(lambda: len(mail.messages) >= 10_000, 100)
        wait_until(lambda: states(database) == {"sent": 10_000})
    assert len(set(mail.recipients)) == len(mail.recipients) == 10_000
