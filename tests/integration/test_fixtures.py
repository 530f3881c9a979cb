"""What the other tests stand on stands."""

import json
import signal
from contextlib import suppress

import psycopg
import pytest

from tests.support import wait_until, wait_until_async
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.mail import MailServer
from tests.support.smtpd import answer


def test_a_database_of_its_own_with_the_story_in_it(database: Database) -> None:
    assert database.value("SELECT count(*) FROM public.dateplan") == 0
    plan = database.add_plan("Café Zürich", "jane@example.org")
    assert database.events() == []
    database.verify(plan)
    [event] = database.events()
    assert (event["rule"], event["key"], event["state"]) == ("dateplan_verified", str(plan), "available")


def test_a_bare_database_has_no_pgherald(bare_database: Database) -> None:
    assert bare_database.value("SELECT to_regnamespace('pgherald')") is None
    other = bare_database.connect()
    assert other.autocommit


async def test_waiting_gives_the_value_and_gives_up() -> None:
    values = iter([0, 0, 7, 0, 8])
    assert wait_until(lambda: next(values)) == 7
    assert await wait_until_async(lambda: next(values)) == 8
    with pytest.raises(AssertionError, match=r"not within 0\.05 s"):
        wait_until(lambda: None, timeout=0.05)
    with pytest.raises(AssertionError, match=r"not within 0\.05 s"):
        await wait_until_async(lambda: None, timeout=0.05)


def test_the_command_is_run_to_its_end(pgherald: Pgherald, database: Database) -> None:
    database.verify(database.add_plan("Café Zürich", "jane@example.org"))
    done = pgherald("status", "--json", check=True)
    assert json.loads(done.stdout)["rules"]["dateplan_verified"]["available"] == 1


def test_the_daemon_is_run_and_ended(pgherald: Pgherald, database: Database, mail: MailServer) -> None:
    with pgherald.daemon() as daemon:
        database.verify(database.add_plan("Café Zürich", "jane@example.org"))
        [message] = mail.wait_for(1)
        assert message.recipient == "jane@example.org"
        daemon.wait_event("event_sent")
    assert daemon.process.returncode == 0


def test_a_daemon_that_does_not_start_shows_what_it_said(pgherald: Pgherald) -> None:
    with (
        pytest.raises(AssertionError, match="ended before 'ready'; it said: Error: "),
        pgherald.daemon(env={"PGHERALD_DELIVERY_LEASE": "soon"}),
    ):
        pytest.fail("it did")


def test_a_killed_daemon_is_no_error(pgherald: Pgherald) -> None:
    with pgherald.daemon() as daemon:
        daemon.kill()
    assert daemon.process.returncode == -signal.SIGKILL


def test_the_mail_server_can_be_told_and_stopped(pgherald: Pgherald, database: Database, mail: MailServer) -> None:
    mail.script("rcpt", answer("550 5.1.1 no such user"), recipient="joe@example.org")
    for name in ("jane", "joe"):
        database.verify(database.add_plan("Café Zürich", f"{name}@example.org"))
    pgherald("run", "--once", check=True)
    assert mail.recipients == ["jane@example.org"]
    mail.stop()
    with pytest.raises(AssertionError, match="2 mails were expected, came: "):
        mail.wait_for(2, timeout=0.05)
    mail.start()
    mail.forget_script()
    database.verify(database.add_plan("Café Zürich", "joe@example.org"))
    pgherald("run", "--once", check=True)
    assert mail.recipients == ["jane@example.org", "joe@example.org"]


def test_a_failing_test_leaves_no_database(databases: Databases, bare_database: Database) -> None:
    with suppress(ZeroDivisionError), databases.fresh() as database:
        name = database.value("SELECT current_database()")
        database.connect().execute("BEGIN")
        stray = psycopg.connect(database.url)
        raise ZeroDivisionError
    stray.close()
    assert bare_database.value("SELECT count(*) FROM pg_database WHERE datname = %s", (name,)) == 0
