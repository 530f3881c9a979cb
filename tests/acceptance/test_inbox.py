"""Changes in the inbox become emails, each once, whatever ends between the take-over and the mark."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest

from listener.admin.inbox import take_over
from listener.demo.cluster import Cluster
from tests.support import repeats, wait_until
from tests.support.backlog import RULE, add_plans, doubted, reasons, states, times_each
from tests.support.claimant import Claimant
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.inbox import GATE_CLOSED, MANY, add_changes, changes, events_of, file_size, wait_delivered
from tests.support.mail import MailServer
from tests.support.several_rules import configure, rules_of
from tests.support.smtpd import stall

# A daemon that is not told of an event would find it by its poll. Here it has to be told.
NO_POLL = {"PGHERALD_DELIVERY_POLL": "60s"}


Eye = psycopg.Connection[Any]


@pytest.fixture
def eye(database: Database) -> Eye:
    """A session that looks at both tables and takes nothing over."""
    return database.connect()


@pytest.mark.slow
def test_two_daemons_take_each_change_over_once(
    database: Database, mail: MailServer, pgherald: Pgherald, eye: Eye
) -> None:
    """Eight sessions capture 2,000 changes meanwhile."""
    plans = add_plans(database, 2000)

    def write(number: int) -> None:
        with psycopg.connect(database.url, autocommit=True) as conn:
            for plan in plans[number::8]:
                conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(pgherald.daemon(env=NO_POLL))
        threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_delivered(eye, 2000)
    assert changes(database) == 0
    assert times_each([mail]) == {1: 2000}


def test_a_daemon_killed_after_the_claim_has_sent_nothing(
    database: Database, mail: MailServer, pgherald: Pgherald, eye: Eye
) -> None:
    mail.script("connect", stall())
    database.verify(*add_plans(database, 10))
    short = {**NO_POLL, "PGHERALD_DELIVERY_LEASE": "2s"}
    with pgherald.daemon(env=short) as daemon:
        wait_until(lambda: {state for _, state in events_of(eye)} == {"claimed"})
        assert changes(database) == 0
        daemon.kill()
    assert len(events_of(eye)) == 10
    mail.forget_script()
    with pgherald.daemon(env=short):
        wait_delivered(eye, 10)
    assert times_each([mail]) == {1: 10}
    assert doubted(database) == 0


@pytest.fixture
def frozen_wal_writer(cluster: Cluster, lone_database: Database) -> Iterator[None]:
    """Stop the process that flushes what an asynchronous commit has left in memory."""
    pid = lone_database.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("flushed", [False, repeats(True)], ids=["lost", "flushed"])
def test_a_crash_of_the_server_leaves_each_change_in_one_place(
    cluster: Cluster,
    lone_database: Database,
    frozen_wal_writer: None,
    mail: MailServer,
    pgherald: Pgherald,
    flushed: bool,
) -> None:
    """The claim's commit waits for no flush. The commit of another session flushes it too."""
    plans = add_plans(lone_database, 3)
    worker = Claimant(lone_database.connect(), "host:1", lease=2.0)
    lone_database.verify(*plans)
    assert changes(lone_database) == 3
    assert len(worker.claim(2, batch=3)) == 2
    if flushed:
        lone_database.execute("UPDATE public.plan SET place = place")
    cluster.kill()
    lone_database.close()
    cluster.start()
    eye = lone_database.connect()
    waiting = [key for (key,) in lone_database.execute("SELECT key FROM pgherald.inbox")]
    taken = events_of(eye)
    assert sorted(waiting + [key for key, _ in taken]) == sorted(map(str, plans))
    assert [state for _, state in taken] == (["claimed", "claimed", "available"] if flushed else [])
    settings = {**pgherald.settings, "PGHERALD_DATABASE_URL": lone_database.url, "PGHERALD_DELIVERY_LEASE": "2s"}
    with Pgherald(settings, pgherald.folder).daemon():
        wait_delivered(eye, 3)
    assert times_each([mail]) == {1: 3}


def test_two_changes_of_a_row_in_the_inbox_give_one_mail(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    [plan] = add_plans(database, 1)
    for _ in range(2):
        database.verify(plan)
        database.execute("UPDATE public.dateplan SET status = 'PE'")
    database.verify(plan)
    assert changes(database) == 3
    pgherald("run", "--once", check=True)
    assert len(mail.recipients) == 1
    assert sorted(reasons(database), key=str) == [("sent", None), ("skipped", "superseded"), ("skipped", "superseded")]


@pytest.mark.slow
def test_a_command_that_takes_changes_over_wakes_the_daemon(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The daemon skipped what was locked, saw no event, and sleeps."""
    [plan] = add_plans(database, 1)
    with pgherald.daemon(env=NO_POLL) as daemon:
        wait_until(lambda: database.value(GATE_CLOSED))
        daemon.signal(signal.SIGSTOP)
        database.verify(plan)
        conn = database.connect()
        claims = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'rule'"
        with conn.transaction():
            take_over(conn)
            before = database.value(claims)
            daemon.signal(signal.SIGCONT)
            # It is asleep again after it has looked: each claim reads the paused rules.
            wait_until(lambda: database.value(claims) > before and database.value(GATE_CLOSED))
            assert mail.messages == []
        mail.wait_for(1)


def test_once_delivers_what_is_behind_changes_that_may_not_be_sent(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """More than a claim takes over: of a paused rule, of one that was removed, and then of one that is active."""
    configure(database, pgherald, {"paused": 1, "active": 1})
    pgherald("pause", "paused", check=True)
    add_changes(database, 1500, "paused")
    add_changes(database, 1500, "removed")
    database.execute("INSERT INTO public.active VALUES (1, 'VE')")
    done = pgherald("run", "--once", check=True)
    assert "1500 events of a paused rule not sent" in done.stderr
    assert rules_of(mail) == ["active"]
    assert changes(database) == 0
    assert states(database) == {"available": 3000, "sent": 1}


@pytest.mark.slow
def test_while_the_breaker_is_open_changes_wait_and_are_counted(
    database: Database, mail: MailServer, pgherald: Pgherald, eye: Eye
) -> None:
    mail.stop()
    plans = add_plans(database, 40)
    with pgherald.daemon(env=NO_POLL) as daemon:
        database.verify(plans[0])
        daemon.wait_event("breaker_open")
        database.verify(*plans[1:])
        status = json.loads(pgherald("status", "--json").stdout)["rules"][RULE]
        assert sum(status.get(state, 0) for state in ("available", "claimed")) == 40
        mail.start()
        wait_delivered(eye, 40)
    assert times_each([mail]) == {1: 40}


@pytest.mark.slow
def test_the_daemon_gives_the_file_back(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """It looks at every tenth second, and a writer that captures meanwhile does not wait."""
    database.execute("ALTER TABLE pgherald.inbox SET (autovacuum_enabled = off)")
    add_changes(database, MANY, "removed")
    assert file_size(database) > 2**20
    plans = iter(add_plans(database, 2000))
    writer = database.connect(options="-c lock_timeout=5s")
    with pgherald.daemon(env=NO_POLL):

        def shrunk() -> bool:
            writer.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (next(plans),))
            return file_size(database) < 2**20

        wait_until(shrunk)
        wait_until(lambda: not changes(database) and {state for _, state in events_of(writer)} == {"available", "sent"})
    assert set(times_each([mail])) == {1}
