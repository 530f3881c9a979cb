"""Settings of a database, a role or an environment that change the format of text and times have no effect."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.command import Pgherald
from tests.support.database import STORY, Database, Databases
from tests.support.mail import MailServer
from tests.support.smtpd import Action

PLACE = "Łazienki 🌃"


def set_for_all(database: Database, setting: str, value: str) -> None:
    name = conninfo_to_dict(database.url)["dbname"]
    database.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(*map(sql.Identifier, (name, setting)), value))


@pytest.mark.slow
def test_settings_of_the_database(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    set_for_all(database, "datestyle", "German")
    set_for_all(database, "timezone", "<+0330>-03:30")
    set_for_all(database, "intervalstyle", "sql_standard")
    set_for_all(database, "default_transaction_isolation", "serializable")
    set_for_all(database, "array_nulls", "off")
    set_for_all(database, "quote_all_identifiers", "on")
    plan = database.add_plan(PLACE, "a@example.org")
    database.verify(plan)
    pgherald("run", "--once", check=True)
    assert PLACE in mail.wait_for(1)[0].email.get_body(("plain",)).get_content()
    [event] = json.loads(pgherald("explain", "dateplan_verified", plan, "--json", check=True).stdout)["events"]
    assert event["state"] == "sent"
    assert str(plan) in pgherald("events", "list", check=True).stdout
    pgherald("doctor", check=True)


@pytest.mark.slow
def test_an_encoding_of_the_environment(bare_database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    bare_database.execute(STORY)
    env = {"PGCLIENTENCODING": "SQL_ASCII"}
    pgherald("install", env=env, check=True)
    bare_database.verify(bare_database.add_plan(PLACE, "a@example.org"))
    pgherald("run", "--once", env=env, check=True)
    assert PLACE in mail.wait_for(1)[0].email.get_body(("plain",)).get_content()


@pytest.fixture
def latin1(databases: Databases) -> Iterator[Database]:
    with databases.fresh(encoding="LATIN1") as database:
        yield database


@pytest.mark.slow
def test_a_database_that_is_not_in_utf8(latin1: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """The server's reply, and its shortened form, contain characters that the database cannot store."""
    env = {"PGHERALD_DATABASE_URL": latin1.url}
    latin1.execute(STORY)
    pgherald("install", env=env, check=True)
    mail.script("dot", Action(reply="250 你好 " + 500 * "x"))
    plan = latin1.add_plan("Café", "a@example.org")
    latin1.verify(plan)
    pgherald("run", "--once", env=env, check=True)
    assert "Café" in mail.wait_for(1)[0].email.get_body(("plain",)).get_content()
    assert [event["state"] for event in latin1.events()] == ["sent"]
    assert "250 " in pgherald("explain", "dateplan_verified", plan, env=env, check=True).stdout


@pytest.mark.slow
def test_times_are_told_in_one_zone(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Sessions write the history in the zone of each. It is shown in UTC."""
    plan = database.add_plan(PLACE, "a@example.org")
    database.verify(plan)
    pgherald("run", "--once", env={"PGTZ": "Asia/Tokyo"}, check=True)
    done = pgherald("explain", "dateplan_verified", plan, "--json", env={"PGTZ": "America/Lima"}, check=True)
    [event] = json.loads(done.stdout)["events"]
    times = [entry["at"] for entry in event["history"]]
    assert times == sorted(times)
    assert {time[-6:] for time in [*times, event["captured_at"], event["settled_at"]]} == {"+00:00"}
    told = pgherald("explain", "dateplan_verified", plan, env={"PGTZ": "America/Lima"}, check=True).stdout.splitlines()
    assert told[1].startswith("  Message-ID ")
    assert [line[2:25] for line in told[2:]] == [time.replace("T", " ")[:23].ljust(23, "0") for time in times]


def test_an_interval_and_infinity_are_in_the_mail(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    set_for_all(database, "intervalstyle", "sql_standard")
    file = tmp_path / "pgherald.toml"
    file.write_text(
        """[rules.dateplan_verified]
        table = "public.dateplan"
        becomes = "VE"
        template = "dateplan_verified"
        lookup = "SELECT d.id AS key, d.status AS current, 'a@example.org' AS email, true AS consent, interval '1 day' AS place, timestamptz 'infinity' AS until FROM public.dateplan d WHERE d.id = ANY (%(keys)s::bigint[])"
        """
    )
    database.verify(database.add_plan(PLACE, "a@example.org"))
    pgherald("--config", file, "run", "--once", check=True)
    assert "at 1 day is now verified" in mail.wait_for(1)[0].email.get_body(("plain",)).get_content()
