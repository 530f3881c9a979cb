"""Several daemons on one database share the work, and another one finishes what one leaves, once."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support import PATIENCE, repeats, wait_until
from tests.support.backlog import add_plans, doubted, states, times_each, wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.network import Network
from tests.support.smtpd import answer, wait, wait_for

# A daemon that is not told of an event would find it by its poll. Here it has to be told.
NO_POLL = {"PGHERALD_DELIVERY_POLL": "60s"}
LEASE = 2.0
# Seconds within which another goes on: one on a machine that has nothing else to do. Less than a lease has left.
SOON = 6.0
SHORT = {**NO_POLL, "PGHERALD_DELIVERY_LEASE": "2s"}

_OF_THE_LEADER = """
    SELECT w.id FROM pg_locks AS leader JOIN pgherald.worker AS w USING (pid)
     WHERE leader.locktype = 'advisory' AND leader.classid = 726354 AND leader.objid = 2 AND leader.granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_SESSIONS = "SELECT pid FROM pgherald.worker WHERE id = %s AND has_presence_lock"


@pytest.fixture
def other_mail() -> Iterator[MailServer]:
    with MailServer() as mail:
        yield mail


def leader(database: Database) -> int | None:
    """The worker's number, of the one who holds the gate while nobody is awake."""
    rows = database.execute(_OF_THE_LEADER)
    return rows[0][0] if rows else None


def number(database: Database, daemon: Daemon) -> int | None:
    """The worker's number that this daemon has in the database, if it has one."""
    rows = database.execute("SELECT id FROM pgherald.worker WHERE name LIKE %s", (f"%:{daemon.pid}",))
    assert len(rows) < 2
    return rows[0][0] if rows else None


def wait_leads(database: Database, daemon: Daemon, timeout: float = PATIENCE) -> None:
    wait_until(lambda: number(database, daemon) is not None and leader(database) == number(database, daemon), timeout)


@pytest.mark.slow
def test_a_backlog_is_shared_and_nothing_sent_twice(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", wait(0.02))
    plans = add_plans(database, 1000)
    with pgherald.daemon(env=NO_POLL) as first, pgherald.daemon(env=NO_POLL) as second:
        wait_until(lambda: leader(database) is not None)
        database.verify(*plans)
        wait_sent(database, 1000)
        shares = dict(database.execute("SELECT claimed_by, count(*) FROM pgherald.outbox GROUP BY 1"))
        assert set(shares) == {number(database, first), number(database, second)}
    assert times_each([mail]) == {1: 1000}
    print(f"shares: {sorted(shares.values())}")
    assert min(shares.values()) >= 300


@pytest.mark.slow
def test_one_of_three_leads_and_all_are_rung(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with ExitStack() as stack:
        daemons = [stack.enter_context(pgherald.daemon(env=NO_POLL)) for _ in range(3)]
        wait_until(lambda: leader(database) is not None)
        for turn in range(1, 4):
            database.verify(database.add_plan("Café", f"a{turn}@example.org"))
            mail.wait_for(turn)
        assert sum(event["event"] == "leading" for daemon in daemons for event in daemon.events) == 1


class TakeOver(NamedTuple):
    """Seconds from a death to the next mail, and to the next holder of the gate."""

    mail: float
    gate: float


def kill_the_busy_one(database: Database, mail: MailServer, survivor: Daemon, victim: Daemon, turn: int) -> TakeOver:
    """Kill it with its hands full; what is told to nobody but the survivor is sent by it."""
    plans = add_plans(database, 40, f"busy{turn}-")
    new = database.add_plan("Café", f"next{turn}@example.org")
    dots = mail.smtpd.seen["dot"]
    database.verify(*plans)
    mail.wait_reached("dot", dots + 10)
    victim.kill()
    dead = time.time()
    database.verify(new)
    gate = 0.0

    def came() -> float:
        nonlocal gate
        if not gate and leader(database) == number(database, survivor):
            gate = time.time() - dead
        return next((m.at - dead for m in mail.messages if m.recipient == f"next{turn}@example.org"), 0.0)

    came_after = wait_until(came)
    wait_until(lambda: came() and gate)
    return TakeOver(came_after, gate)


def kill_in_turns(database: Database, mail: MailServer, pgherald: Pgherald, turns: int) -> list[TakeOver]:
    mail.script("dot", wait(0.05))
    taken = []
    with ExitStack() as stack:
        # The lost connection shows the death here, not the lease. An event in doubt waits for the end of the lease:
        # otherwise the next death would find it being sent for the second time.
        env = {**NO_POLL, "PGHERALD_DELIVERY_LEASE": "1h"}
        victim = stack.enter_context(pgherald.daemon(env=env))
        wait_leads(database, victim)
        for turn in range(turns):
            survivor = stack.enter_context(pgherald.daemon(env=env))
            taken.append(kill_the_busy_one(database, mail, survivor, victim, turn))
            victim = survivor
        wait_until(lambda: set(states(database)) == {"sent", "in_doubt"})
        database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'in_doubt'")
        wait_sent(database, turns * 41)
    assert set(times_each([mail])) <= {1, 2}
    doubled = sum(count - 1 for count in Counter(mail.recipients).values())
    assert doubled <= doubted(database) <= 16 * turns
    print(
        f"{turns} deaths: next mail after {max(t.mail for t in taken):.2f} s at worst, "
        f"{sorted(t.mail for t in taken)[turns // 2]:.2f} s in the middle; "
        f"the gate's next holder after {max(t.gate for t in taken):.2f} s at worst"
    )
    return taken


def test_after_kill_9_the_other_goes_on_within_a_second(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    taken = kill_in_turns(database, mail, pgherald, 3)
    assert max(t.mail for t in taken) < SOON
    assert max(t.gate for t in taken) < SOON


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_kill_9_fifty_times(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    taken = kill_in_turns(database, mail, pgherald, 50)
    assert sorted(t.mail for t in taken)[25] < 0.6
    assert max(t.mail for t in taken) < 2
    assert max(t.gate for t in taken) < 2


def test_what_the_dead_one_had_claimed_is_sent_within_a_second(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald
) -> None:
    """Claimed, not marked: nobody can have sent it, so there is nothing to wait for."""
    # One connection, stalled before the mark: the first two messages are marked, the rest only claimed.
    other_mail.script("dot", wait(60))
    env = {**NO_POLL, "PGHERALD_SMTP_URL": other_mail.url, "PGHERALD_SMTP_CONNECTIONS": "1"}
    with pgherald.daemon(env=env) as victim, pgherald.daemon(env=NO_POLL) as survivor:
        wait_leads(database, victim)
        survivor.signal(signal.SIGSTOP)
        database.verify(*add_plans(database, 2))
        wait_until(lambda: states(database) == {"transmitting": 2})
        # Through a pause of the mark: what is claimed, and nothing else.
        database.execute("UPDATE pgherald.outbox SET state = 'claimed', recipient = NULL, message = NULL")
        survivor.signal(signal.SIGCONT)
        victim.kill()
        dead = time.time()
        wait_sent(database, 2)
        took = max(message.at for message in mail.messages) - dead
        print(f"what was claimed came after {took:.2f} s")
        assert took < SOON


@pytest.mark.slow
def test_once_takes_over_from_one_that_was_killed(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald
) -> None:
    """As cron does it: what the last run had claimed is due for this one."""
    other_mail.script("greeting", wait(60))
    database.verify(*add_plans(database, 5))
    with pgherald.daemon(env={"PGHERALD_SMTP_URL": other_mail.url, "PGHERALD_SMTP_CONNECTIONS": "1"}) as victim:
        wait_until(lambda: "transmitting" in states(database) or states(database) == {"claimed": 2, "available": 3})
        victim.kill()
    done = pgherald("run", "--once")
    assert done.returncode == 0, done.stderr
    left = states(database)
    assert left["claimed"] == left["transmitting"] == left["available"] == 0
    assert left["sent"] >= 3
    assert left["sent"] + left["in_doubt"] == 5


@pytest.mark.parametrize("asleep", [repeats(False), repeats(True)], ids=["awake", "asleep"])
def test_a_cut_network(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald, asleep: bool
) -> None:
    """The one behind it sends no more before its lease ends; the other takes over then; healed, both work."""
    gate = asyncio.Event()
    with Network(database.url) as network:
        cut_env = {**SHORT, "PGHERALD_DATABASE_URL": network.url, "PGHERALD_SMTP_URL": other_mail.url}
        with pgherald.daemon(env=cut_env) as cut, pgherald.daemon(env=SHORT) as other:
            wait_leads(database, cut)
            plans = 0
            if not asleep:
                # It has marked them and waits for 354: the last moment before what cannot be taken back.
                other_mail.script("data", wait_for(gate))
                other.signal(signal.SIGSTOP)
                plans = 8
                database.verify(*add_plans(database, plans))
                wait_until(lambda: states(database) == {"transmitting": plans})
                network.cut()
                other.signal(signal.SIGCONT)
            else:
                network.cut()
            began = time.time()
            other.wait_event("workers_rescued", 10)
            wait_leads(database, other)
            taken = time.time() - began
            print(f"taken over {taken:.2f} s after the cut")
            assert taken < LEASE + 1.5
            if plans:
                wait_sent(database, plans, 10)
            database.verify(database.add_plan("Café", "new@example.org"))
            wait_sent(database, plans + 1, 10)
            if not asleep:
                # Now it may send, for all the mail server cares.
                other_mail.open(gate)
                other_mail.wait_reached("body", plans)
                wait_until(lambda: not other_mail.smtpd.sessions)
            cut.wait_event("lease_renewal_failed")
            cut.wait_event("listen_connect_failed" if asleep else "settle_failed")
            assert other_mail.messages == []
            network.heal()
            cut.wait_event("lease_expired")
            other_mail.forget_script()
            wait_until(lambda: number(database, cut) is not None)
            other.stop()
            wait_leads(database, cut)
            database.verify(database.add_plan("Café", "healed@example.org"))
            assert [m.recipient for m in other_mail.wait_for(1)] == ["healed@example.org"]
    assert times_each([mail, other_mail]) == {1: plans + 2}


@pytest.mark.slow
@pytest.mark.parametrize("first", [repeats("the reply"), "the lease"])
def test_stopped_for_longer_than_the_lease(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald, first: str
) -> None:
    """A stopped process whose events were rescued meanwhile sends none of them, whichever it notices first."""
    gate = asyncio.Event()
    other_mail.script("data", wait_for(gate))
    with pgherald.daemon(env={**SHORT, "PGHERALD_SMTP_URL": other_mail.url}) as stopped:
        wait_leads(database, stopped)
        database.verify(*add_plans(database, 8))
        wait_until(lambda: states(database) == {"transmitting": 8})
        # The marks may be there before the envelopes are.
        other_mail.wait_reached("data", 8)
        stopped.signal(signal.SIGSTOP)
        with pgherald.daemon(env=SHORT) as other:
            other.wait_event("workers_rescued", 10)
            wait_leads(database, other)
            wait_sent(database, 8, 10)
            if first == "the reply":
                other_mail.open(gate)
                other_mail.wait_reached("body", 8)
            stopped.signal(signal.SIGCONT)
            stopped.wait_event("lease_expired")
            wait_until(lambda: number(database, stopped) is not None)
            other_mail.open(gate)
            other_mail.wait_reached("body", 8)
            wait_until(lambda: not other_mail.smtpd.sessions)
            assert other_mail.messages == []
            other_mail.forget_script()
        wait_leads(database, stopped)
        database.verify(database.add_plan("Café", "again@example.org"))
        assert [m.recipient for m in other_mail.wait_for(1)] == ["again@example.org"]
    assert times_each([mail, other_mail]) == {1: 9}


@pytest.mark.slow
def test_stopped_in_a_backlog_and_what_was_sent_is_told_late(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    env = {**SHORT, "PGHERALD_DELIVERY_IN_DOUBT": "hold"}
    mail.script("dot", wait(0.03))
    plans = add_plans(database, 400)
    with pgherald.daemon(env=env) as stopped:
        database.verify(*plans)
        wait_until(lambda: len(mail.messages) > 50)
        stopped.signal(signal.SIGSTOP)
        with pgherald.daemon(env=env) as other:
            other.wait_event("workers_rescued", 10)
            wait_until(lambda: set(states(database)) == {"sent", "in_doubt"})
            stopped.signal(signal.SIGCONT)
            wait_sent(database, 400)
    assert times_each([mail]) == {1: 400}


@pytest.mark.slow
def test_a_lost_listen_connection_is_no_death(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """The lock by which the other would see it is gone for a moment; the daemon is not."""
    mail.script("dot", wait(0.03))
    with pgherald.daemon(env=NO_POLL) as one, pgherald.daemon(env=NO_POLL) as two:
        wait_leads(database, one)
        database.verify(*add_plans(database, 1500))
        for daemon in (one, two) * 3:
            worker = number(database, daemon)
            sessions = wait_until(lambda worker=worker: database.execute(_SESSIONS, (worker,)))
            database.execute("SELECT pg_terminate_backend(%s)", sessions[0])
        wait_sent(database, 1500, 60)
        for daemon in (one, two):
            daemon.wait_event("listen_disconnected")
            assert [event for event in daemon.events if event["event"] in ("workers_rescued", "lease_expired")] == []
    assert doubted(database) == 0
    assert times_each([mail]) == {1: 1500}


@pytest.mark.slow
def test_the_others_are_rung_while_the_leader_has_its_hands_full(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald
) -> None:
    other_mail.script("dot", wait(30))
    slow = {**NO_POLL, "PGHERALD_SMTP_URL": other_mail.url, "PGHERALD_SMTP_CONNECTIONS": "1"}
    with pgherald.daemon(env=slow) as one:
        wait_leads(database, one)
        database.verify(*add_plans(database, 2))
        wait_until(lambda: states(database) == {"transmitting": 2})
        with pgherald.daemon(env=NO_POLL) as two:
            wait_until(lambda: number(database, two))
            for turn in range(3):
                recipient = f"quick{turn}@example.org"
                database.verify(database.add_plan("Café", recipient))
                # Before the first daemon's mail server answers.
                wait_until(lambda recipient=recipient: recipient in mail.recipients, 20)
            other_mail.forget_script()
        one.kill()


@pytest.mark.slow
def test_the_others_are_rung_while_the_leader_finds_no_mail_server(
    database: Database, mail: MailServer, other_mail: MailServer, pgherald: Pgherald
) -> None:
    other_mail.script("greeting", answer("554 5.3.2 closed", then="close"))
    with pgherald.daemon(env={**NO_POLL, "PGHERALD_SMTP_URL": other_mail.url}) as one:
        wait_leads(database, one)
        database.verify(database.add_plan("Café", "first@example.org"))
        one.wait_event("breaker_open")
        with pgherald.daemon(env=NO_POLL) as two:
            wait_until(lambda: number(database, two))
            for turn in range(5):
                recipient = f"quick{turn}@example.org"
                database.verify(database.add_plan("Café", recipient))
                # An event that the first daemon has retried meanwhile is not due at once.
                wait_until(lambda recipient=recipient: recipient in mail.recipients)
            assert leader(database) == number(database, one)
