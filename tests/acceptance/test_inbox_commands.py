"""Each command finds a change that no daemon has taken over yet, as it finds an event."""

import json
import signal
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import wait_until
from tests.support.backlog import RULE, add_plans, times_each
from tests.support.command import Pgherald
from tests.support.configuration import configuration
from tests.support.database import Database
from tests.support.inbox import GATE_CLOSED, changes, events_of
from tests.support.mail import MailServer
from tests.support.web import ANY_PORT, Client

Eye = psycopg.Connection[Any]


@pytest.fixture
def eye(database: Database) -> Eye:
    """A session that looks at the outbox and takes nothing over."""
    return database.connect()


@pytest.fixture
def plan(database: Database) -> int:
    """A row whose change is in the inbox."""
    [plan] = add_plans(database, 1)
    database.verify(plan)
    assert changes(database) == 1
    return plan


@pytest.mark.parametrize("read_only", [False, True], ids=["may write", "may only read"])
def test_explain_shows_it_and_changes_nothing(
    database: Database, plan: int, eye: Eye, pgherald: Pgherald, read_only: bool
) -> None:
    env = {"PGOPTIONS": "-c default_transaction_read_only=on"} if read_only else {}
    shown = pgherald("explain", RULE, plan, env=env, check=True).stdout
    assert "event without a number, in the inbox: available" in shown
    assert "Message-ID" not in shown
    assert "None" not in shown
    told = json.loads(pgherald("explain", RULE, plan, "--json", env=env, check=True).stdout)
    [event] = told["events"]
    assert (event["id"], event["message_id"], event["state"]) == (None, None, "available")
    assert [entry["what"] for entry in event["history"]] == ["captured"]
    assert (changes(database), events_of(eye)) == (1, [])


def test_explain_lists_it_among_an_addresss_rows(database: Database, plan: int, pgherald: Pgherald) -> None:
    configuration(
        pgherald.folder,
        find="""SELECT d.id AS key FROM public.dateplan d JOIN public.users u ON u.id = d.user_id
                 WHERE u.email = %(email)s ORDER BY d.id""",
    )
    database.execute("INSERT INTO public.dateplan (user_id, plan_id) SELECT user_id, plan_id FROM public.dateplan")
    first, second = pgherald("explain", RULE, "--email", "u1@example.org", check=True).stdout.splitlines()
    assert first.startswith(f"{RULE} {plan}: event without a number, in the inbox: available, ")
    assert ": no event" in second


def test_explain_as_a_role_that_may_only_read(
    database: Database, daemon_role: str, plan: int, eye: Eye, pgherald: Pgherald
) -> None:
    database.execute(f'REVOKE UPDATE, DELETE ON pgherald.inbox FROM "{daemon_role}"')  # type: ignore[arg-type]
    env = {"PGOPTIONS": f"-c role={daemon_role}"}
    assert "in the inbox: available" in pgherald("explain", RULE, plan, env=env, check=True).stdout
    # It finds no event with a number, and does not fail.
    assert json.loads(pgherald("events", "list", RULE, "--json", env=env, check=True).stdout) == []
    assert (changes(database), events_of(eye)) == (1, [])


def test_explain_shows_it_behind_the_rows_earlier_events(
    database: Database, plan: int, mail: MailServer, pgherald: Pgherald
) -> None:
    pgherald("run", "--once", check=True)
    database.execute("UPDATE public.dateplan SET status = 'PE'")
    database.verify(plan)
    said = pgherald("explain", RULE, plan, check=True).stdout
    first, second = (line for line in said.splitlines() if line.startswith("event "))
    assert (": sent" in first, second.startswith("event without a number, in the inbox: available")) == (True, True)


def test_events_lists_it_with_a_number(database: Database, plan: int, pgherald: Pgherald) -> None:
    found = json.loads(pgherald("events", "list", RULE, "--state", "available", "--json", check=True).stdout)
    assert [(event["key"], event["state"]) for event in found] == [(str(plan), "available")]
    assert isinstance(found[0]["id"], int)
    assert changes(database) == 0


def test_events_of_another_row_leave_it(database: Database, plan: int, eye: Eye, pgherald: Pgherald) -> None:
    assert json.loads(pgherald("events", "list", RULE, "--key", plan + 1, "--json", check=True).stdout) == []
    assert (changes(database), events_of(eye)) == (1, [])


def test_forget_deletes_it(database: Database, plan: int, eye: Eye, mail: MailServer, pgherald: Pgherald) -> None:
    [other] = add_plans(database, 1, "other")
    database.verify(other)
    pgherald("forget", RULE, plan, "--yes", check=True)
    assert sorted(key for (key,) in database.execute("SELECT key FROM pgherald.inbox")) == [str(other)]
    assert events_of(eye) == []
    pgherald("run", "--once", check=True)
    assert mail.recipients == ["other1@example.org"]


def test_status_and_metrics_count_it(database: Database, plan: int, eye: Eye, pgherald: Pgherald) -> None:
    status = json.loads(pgherald("status", "--json", check=True).stdout)
    assert status["rules"][RULE]["available"] == 1
    assert (changes(database), events_of(eye)) == (1, [])
    pgherald("pause", RULE, check=True)
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        wait_until(lambda: client.metrics().get(f'pgherald_available_events{{rule="{RULE}"}}') == 1)


def test_backfill_and_a_new_rules_snapshot_leave_its_row_out(
    database: Database, plan: int, eye: Eye, mail: MailServer, pgherald: Pgherald
) -> None:
    assert pgherald("backfill", RULE, check=True).stdout == "0 rows captured\n"
    database.execute("UPDATE pgherald.rule SET snapshot_done = false, snapshot_position = NULL")
    database.execute("CALL pgherald.snapshot_existing('dateplan_verified')")
    assert database.value("SELECT count(*) FROM pgherald.handled") == 0
    assert (changes(database), events_of(eye)) == (1, [])
    pgherald("run", "--once", check=True)
    assert times_each([mail]) == {1: 1}


def test_uninstall_refuses_to_lose_it(database: Database, plan: int, pgherald: Pgherald) -> None:
    refused = pgherald("uninstall")
    assert refused.returncode == 1
    assert "1 event not settled" in refused.stderr
    assert changes(database) == 1
    pgherald("uninstall", "--force", "--yes", check=True)
    assert not database.value("SELECT to_regclass('pgherald.inbox') IS NOT NULL")


def test_doctor_finds_it_overdue_while_the_leader_sleeps(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """A stopped process stands for a notification that was lost."""
    [plan] = add_plans(database, 1)
    with pgherald.daemon(env={"PGHERALD_DELIVERY_POLL": "60s"}) as daemon:
        wait_until(lambda: database.value(GATE_CLOSED))
        daemon.signal(signal.SIGSTOP)
        database.verify(plan)
        database.execute("UPDATE pgherald.inbox SET captured_at = now() - interval '1 hour'")
        said = pgherald("doctor").stdout
        daemon.signal(signal.SIGCONT)
        assert "1 events are overdue" in said
        mail.wait_for(1)


def test_a_publication_of_all_tables_fails_neither_capture_nor_take_over(
    database: Database, plan: int, mail: MailServer, pgherald: Pgherald
) -> None:
    """Without a replica identity the server would refuse the daemon's DELETE."""
    with database.connect(options="-c client_min_messages=error") as conn:
        conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    [other] = add_plans(database, 1, "other")
    database.verify(other)
    pgherald("run", "--once", check=True)
    assert sorted(mail.recipients) == ["other1@example.org", "u1@example.org"]
    assert changes(database) == 0
    assert "publication everything: it includes the tables of schema pgherald" in pgherald("install").stderr
    database.execute("ALTER TABLE pgherald.inbox REPLICA IDENTITY DEFAULT")
    database.verify(*add_plans(database, 1, "third"))
    with pytest.raises(errors.ObjectNotInPrerequisiteState):
        database.take_over()
    # Installing again gives it back.
    pgherald("install", check=True)
    database.take_over()
    assert changes(database) == 0
