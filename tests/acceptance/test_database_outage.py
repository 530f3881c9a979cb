"""The database stops, crashes, refuses, hangs and comes back: nothing is lost, nothing is sent twice, and it is said what is waited for."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from listener.demo.cluster import Cluster
from tests.support import repeats, wait_until
from tests.support.backlog import add_plans, doubted, most_lines_a_second, states, times_each, wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import OPTIONS, Database, chosen_binaries, fill_with_story
from tests.support.mail import MailServer
from tests.support.network import Network
from tests.support.smtpd import wait, wait_for
from tests.support.standby import Standby

# A daemon that misses a notification must not find the event by its poll within the test.
NO_POLL = {"PGHERALD_DELIVERY_POLL": "60s"}
LEASE = 2.0
# Seconds until the first mail, once the database is back: one or two on a machine that has nothing else to do.
SOON = 8.0
SHORT = {**NO_POLL, "PGHERALD_DELIVERY_LEASE": "2s"}
WAITS = {"listen_connect_failed", "lease_renewal_failed", "settle_failed", "database_unavailable"}
_DAEMONS = "FROM pg_stat_activity WHERE application_name = 'pgherald' AND datname = current_database()"


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """The story, on a server of the test's own."""
    yield from story_on(cluster)


def story_on(cluster: Cluster) -> Iterator[Database]:
    fill_with_story(cluster.dsn())
    database = Database(cluster.dsn())
    yield database
    database.close()


def waits(daemon: Daemon) -> set[str]:
    return {event["event"] for event in daemon.events} & WAITS


def stop(cluster: Cluster, database: Database, mode: Literal["fast", "immediate"] = "fast") -> None:
    cluster.stop(mode)
    database.close()


def first_mail(mail: MailServer, back: float) -> float:
    """Seconds from when the database was back to the next mail."""
    return wait_until(lambda: next((received.at - back for received in mail.messages if received.at > back), 0.0))


def assert_calm(daemon: Daemon) -> None:
    """Require that each waiting task logged its wait once, and not again for every try."""
    most = most_lines_a_second(daemon)
    print(f"the same at most {most} times a second")
    assert most <= 2, "\n".join(daemon.lines)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.slow), "immediate"])
def test_a_restart_in_a_backlog(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald, mode: Literal["fast", "immediate"]
) -> None:
    mail.script("dot", wait(0.01))
    plans = add_plans(database, 2500)
    with pgherald.daemon(env=NO_POLL) as daemon:
        database.verify(*plans)
        for share in (300, 1500):
            wait_until(lambda share=share: len(mail.messages) > share)
            stop(cluster, database, mode)
            for name in ("settle_failed", "lease_renewal_failed", "listen_connect_failed"):
                daemon.wait_event(name)
            cluster.start()
            took = first_mail(mail, time.time())
            print(f"first mail {took:.2f} s after the database was back ({mode})")
            assert took < SOON
        wait_sent(database, 2500, 60)
        assert_calm(daemon)
    assert times_each([mail]) == {1: 2500}
    assert doubted(database) == 0


@pytest.mark.slow
def test_however_long_it_was_away_the_first_mail_comes_soon_and_the_bell_is_heard_again(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with pgherald.daemon(env=NO_POLL) as daemon:
        first, second = database.add_plan("Café", "first@example.org"), database.add_plan("Café", "second@example.org")
        database.verify(first)
        mail.wait_for(1)
        # Asleep, with another event for when the database is back.
        database.execute("UPDATE pgherald.outbox SET state = 'available', settled_at = NULL, claim = NULL")
        stop(cluster, database)
        # Said again after ten seconds.
        wait_until(lambda: sum(event["event"] == "database_unavailable" for event in daemon.events) >= 3)
        cluster.start()
        took = first_mail(mail, time.time())
        print(f"first mail {took:.2f} s after the database was back")
        assert took < SOON
        wait_until(lambda: sum(event["event"] == "listening" for event in daemon.events) == 2)
        database.verify(second)
        mail.wait_for(3)
        assert_calm(daemon)
        assert sum(event["event"] in WAITS for event in daemon.events) < 20


def test_it_waits_for_a_database_that_is_not_there_yet(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    stop(cluster, database)
    with pgherald.daemon(ready=False, env=NO_POLL) as daemon:
        assert "refused" in daemon.wait_event("database_unavailable")["error"]
        cluster.start()
        back = time.time()
        daemon.wait_event("ready")
        took = first_mail(mail, back)
        print(f"first mail {took:.2f} s after the database was there")
        assert took < SOON
        assert_calm(daemon)


@pytest.mark.slow
def test_and_can_be_stopped_while_it_waits(cluster: Cluster, database: Database, pgherald: Pgherald) -> None:
    cluster.stop()
    with pgherald.daemon(ready=False) as daemon:
        daemon.wait_event("database_unavailable")
        assert daemon.stop() == 0
    done = pgherald("run", "--once")
    assert done.returncode == 1
    assert "Error: the database cannot be reached" in done.stderr


@pytest.mark.slow
def test_sessions_ended_while_it_is_idle(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Any of them, and all: the next ring is heard, or the loss is, and what is new is found."""
    with pgherald.daemon(env=NO_POLL) as daemon:
        database.verify(database.add_plan("Café", "a0@example.org"))
        mail.wait_for(1)
        for turn in range(1, 13):
            pids = [pid for (pid,) in database.execute(f"SELECT pid {_DAEMONS} ORDER BY backend_start")]
            assert pids
            for pid in pids if turn % 3 == 0 else [pids[turn % len(pids)]]:
                database.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            database.verify(database.add_plan("Café", f"a{turn}@example.org"))
            mail.wait_for(turn + 1)
        wait_sent(database, 13)
        assert_calm(daemon)
    assert doubted(database) == 0


@pytest.mark.parametrize("how", [repeats("one"), "all", repeats("crash")])
def test_sessions_ended_in_a_backlog(
    database: Database, mail: MailServer, pgherald: Pgherald, how: Literal["one", "all", "crash"]
) -> None:
    mail.script("dot", wait(0.01))
    plans = add_plans(database, 1800)
    with pgherald.daemon(env=NO_POLL) as daemon:
        database.verify(*plans)
        for turn in range(1, 3 if how == "crash" else 11):
            wait_until(lambda turn=turn: len(mail.messages) > 120 * turn)
            pids = [pid for (pid,) in database.execute(f"SELECT pid {_DAEMONS} ORDER BY backend_start")]
            if how == "crash":
                # The server takes a killed backend for a sign of damage, ends all sessions, and recovers.
                os.kill(pids[0], signal.SIGKILL)
                wait_until(lambda killed=pids[0]: recovered(database, killed))
            elif how == "all":
                database.execute(f"SELECT pg_terminate_backend(pid) {_DAEMONS}")
            else:
                database.execute("SELECT pg_terminate_backend(%s)", (pids[turn % len(pids)],))
        wait_sent(database, 1800, 60)
        assert_calm(daemon)
    assert times_each([mail]) == {1: 1800}
    assert doubted(database) == 0


def recovered(database: Database, killed: int) -> bool:
    """A killed backend cannot take its entry away; only the recovery does."""
    try:
        return not database.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (killed,))
    except psycopg.OperationalError:
        return False


def answers(database: Database) -> bool:
    try:
        database.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("moment", [repeats("claimed"), "transmitting", repeats("sent")])
def test_an_answer_lost_on_its_way(
    database: Database, mail: MailServer, pgherald: Pgherald, moment: Literal["claimed", "transmitting", "sent"]
) -> None:
    """The server has done what it was asked, and the daemon does not know."""
    with Network(database.url) as network:
        env = {**NO_POLL, "PGHERALD_DATABASE_URL": network.url, "PGHERALD_DATABASE_LISTEN_URL": database.url}
        with pgherald.daemon(env=env) as daemon:
            database.verify(database.add_plan("Café", "before@example.org"))
            mail.wait_for(1)
            wait_sent(database, 1)
            network.delay(0.3)
            database.verify(database.add_plan("Café", "a@example.org"))
            wait_until(lambda: [event["state"] for event in database.events()] == ["sent", moment])
            network.reset()
            network.delay(0)
            wait_sent(database, 2, 10)
            daemon.wait_event("event_sent", event_id=2)
            if moment == "claimed":
                daemon.wait_event("lost_claims_released", events=1)
            assert [event for event in daemon.events if event["event"] == "claim_superseded"] == []
    mail.wait_for(2)
    assert doubted(database) == 0


@pytest.mark.slow
def test_stopped_before_it_knows_what_it_has_claimed(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    with Network(database.url) as network:
        env = {**NO_POLL, "PGHERALD_DATABASE_URL": network.url, "PGHERALD_DATABASE_LISTEN_URL": database.url}
        with pgherald.daemon(env=env) as daemon:
            database.verify(database.add_plan("Café", "before@example.org"))
            wait_sent(database, 1)
            network.delay(0.3)
            database.verify(database.add_plan("Café", "a@example.org"))
            wait_until(lambda: states(database) == {"sent": 1, "claimed": 1})
            assert daemon.stop() == 0
    assert states(database) == {"sent": 1, "available": 1}
    assert len(mail.messages) == 1


@pytest.mark.parametrize("daemons", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_was_sent_while_it_was_away_is_settled_afterwards_and_not_sent_again(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald, daemons: int
) -> None:
    """Nobody's lease is over because nobody could renew it."""
    gate = asyncio.Event()
    mail.script("dot", wait_for(gate))
    with ExitStack() as stack:
        running = [stack.enter_context(pgherald.daemon(env=SHORT)) for _ in range(daemons)]
        database.verify(*add_plans(database, 8))
        mail.wait_reached("dot", 8)
        stop(cluster, database)
        away = time.monotonic()
        for daemon in running:
            daemon.wait_event("lease_renewal_failed")
        wait_until(lambda: time.monotonic() - away > 1.5 * LEASE)
        mail.open(gate)
        mail.wait_for(8)
        wait_until(lambda: any("settle_failed" in waits(daemon) for daemon in running))
        cluster.start()
        wait_sent(database, 8, 10)
        database.verify(database.add_plan("Café", "new@example.org"))
        mail.wait_for(9)
        for daemon in running:
            assert [event for event in daemon.events if event["event"] in ("workers_rescued", "lease_expired")] == []
    assert doubted(database) == 0


@pytest.mark.slow
def test_read_only_for_a_while(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("dot", wait(0.01))
    plans = add_plans(database, 1000)
    database.execute("SET default_transaction_read_only = off")
    with pgherald.daemon(env=SHORT) as daemon:
        database.verify(*plans)
        wait_until(lambda: len(mail.messages) > 200)
        database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        database.execute("SELECT pg_reload_conf()")
        for name in ("settle_failed", "lease_renewal_failed"):
            assert "read-only" in daemon.wait_event(name)["error"]
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 1.5 * LEASE)
        assert len(mail.messages) < 1000
        database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        database.execute("SELECT pg_reload_conf()")
        took = first_mail(mail, time.time())
        print(f"first mail {took:.2f} s after it could be written again")
        assert took < SOON
        wait_sent(database, 1000, 30)
        assert_calm(daemon)
    assert times_each([mail]) == {1: 1000}
    assert doubted(database) == 0


@pytest.mark.slow
def test_no_connection_is_to_be_had(mail: MailServer, tmp_path: Path) -> None:
    with Cluster(chosen_binaries(), {**OPTIONS, "max_connections": 20}) as cluster:
        fill_with_story(cluster.dsn())
        database = Database(cluster.dsn())
        settings = {
            "PGHERALD_DATABASE_URL": database.url,
            "PGHERALD_SMTP_URL": mail.url,
            "PGHERALD_LOG_FORMAT": "json",
            **NO_POLL,
        }
        first, second = database.add_plan("Café", "first@example.org"), database.add_plan("Café", "second@example.org")
        taken = take_all(database)
        with Pgherald(settings, tmp_path).daemon(ready=False) as daemon:
            assert "too many clients" in daemon.wait_event("database_unavailable")["error"]
            database.verify(first)
            free(taken)
            daemon.wait_event("ready")
            mail.wait_for(1)
            while not any(
                "too many clients" in e.get("error", "") for e in daemon.events if e["event"] == "lease_renewal_failed"
            ):
                # The daemon may be the first to have them again.
                database.execute(f"SELECT pg_terminate_backend(pid, 5000) {_DAEMONS}")
                taken += take_all(database)
            database.verify(second)
            free(taken)
            back = time.time()
            print(f"first mail {first_mail(mail, back):.2f} s after there were connections again")
            wait_sent(database, 2, 5)
            assert_calm(daemon)
        database.close()


def take_all(database: Database) -> list[psycopg.Connection[Any]]:
    taken: list[psycopg.Connection[Any]] = []
    while True:
        try:
            taken.append(psycopg.connect(database.url))
        except psycopg.OperationalError:
            return taken


def free(connections: list[psycopg.Connection[Any]]) -> None:
    for conn in connections:
        conn.close()
    connections.clear()


@pytest.mark.slow
def test_the_outbox_connections_hang(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Cut without a sign, while the LISTEN connection goes on. New ones hang first, and then do not."""
    mail.script("dot", wait(0.01))
    plans = add_plans(database, 1000)
    with Network(database.url) as network:
        env = {**SHORT, "PGHERALD_DATABASE_URL": network.url, "PGHERALD_DATABASE_LISTEN_URL": database.url}
        with pgherald.daemon(env=env) as daemon:
            database.verify(*plans)
            wait_until(lambda: len(mail.messages) > 200)
            network.cut()
            for name in ("settle_failed", "lease_renewal_failed"):
                daemon.wait_event(name)
            # Those connections are lost for good; the next ones are not.
            network.reset()
            network.heal()
            took = first_mail(mail, time.time())
            print(f"first mail {took:.2f} s after the network was healed")
            wait_sent(database, 1000, 30)
            assert_calm(daemon)
    assert times_each([mail]) == {1: 1000}
    assert doubted(database) == 0


@pytest.mark.slow
def test_the_listen_connection_hangs(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """It holds the gate and hears nothing. It finds out, polls, and listens again when it can."""
    with Network(database.url) as network:
        env = {**NO_POLL, "PGHERALD_DATABASE_LISTEN_URL": network.url}
        with pgherald.daemon(env=env) as daemon:
            database.verify(database.add_plan("Café", "before@example.org"))
            mail.wait_for(1)
            network.cut()
            database.verify(database.add_plan("Café", "unheard@example.org"))
            mail.wait_for(2)
            daemon.wait_event("listen_disconnected")
            daemon.wait_event("listen_connect_failed")
            database.verify(database.add_plan("Café", "polled@example.org"))
            mail.wait_for(3)
            network.heal()
            wait_until(lambda: sum(event["event"] == "listening" for event in daemon.events) == 2)
            database.verify(database.add_plan("Café", "heard@example.org"))
            mail.wait_for(4)
            assert_calm(daemon)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_failover_to_a_standby(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald, turn: int
) -> None:
    """The primary dies in a backlog, its synchronous standby is promoted: nothing lost, nothing twice."""
    mail.script("dot", wait(0.01))
    plans = add_plans(database, 3000)
    with Standby(cluster) as standby:
        standby.confirm()
        hosts = f"127.0.0.1:{cluster.port},127.0.0.1:{standby.port}"
        url = cluster.dsn().replace(f"127.0.0.1:{cluster.port}", hosts) + "?target_session_attrs=read-write"
        with pgherald.daemon(env={**NO_POLL, "PGHERALD_DATABASE_URL": url}) as daemon:
            database.verify(*plans)
            wait_until(lambda: len(mail.messages) > 600)
            cluster.kill()
            for name in ("settle_failed", "lease_renewal_failed", "listen_connect_failed"):
                daemon.wait_event(name)
            began = time.time()
            standby.promote()
            promoted = time.time()
            took = first_mail(mail, promoted)
            print(f"promoted in {promoted - began:.2f} s, first mail {took:.2f} s later")
            assert took < SOON
            there = Database(standby.dsn())
            wait_sent(there, 3000, 60)
            assert doubted(there) == 0
            there.verify(there.add_plan("Café", "new@example.org"))
            mail.wait_for(3001)
            there.close()
            assert_calm(daemon)
    assert times_each([mail]) == {1: 3001}


@pytest.mark.slow
def test_failover_that_takes_longer_than_the_leases(
    cluster: Cluster, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """A daemon settles at the new primary the event it sent meanwhile, and the other daemon does not rescue it."""
    gate = asyncio.Event()
    mail.script("dot", wait_for(gate))
    with Standby(cluster) as standby, ExitStack() as stack:
        standby.confirm()
        hosts = f"127.0.0.1:{cluster.port},127.0.0.1:{standby.port}"
        url = cluster.dsn().replace(f"127.0.0.1:{cluster.port}", hosts) + "?target_session_attrs=read-write"
        env = {**SHORT, "PGHERALD_DATABASE_URL": url}
        running = [stack.enter_context(pgherald.daemon(env=env)) for _ in range(2)]
        database.verify(*add_plans(database, 8))
        mail.wait_reached("dot", 8)
        cluster.kill()
        dead = time.monotonic()
        for daemon in running:
            daemon.wait_event("lease_renewal_failed")
        wait_until(lambda: time.monotonic() - dead > 1.5 * LEASE)
        mail.open(gate)
        mail.wait_for(8)
        standby.promote()
        there = Database(standby.dsn())
        wait_sent(there, 8, 10)
        there.verify(there.add_plan("Café", "new@example.org"))
        mail.wait_for(9)
        for daemon in running:
            assert [event for event in daemon.events if event["event"] in ("workers_rescued", "lease_expired")] == []
        assert doubted(there) == 0
        there.close()


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own, where the next servers' folders are made."""
    disk = Path(tempfile.mkdtemp(prefix="disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=640m,mode=1777", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a file system to fill cannot be mounted here: {mounted.stderr.strip()}")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
    disk.rmdir()


@pytest.mark.slow
def test_the_disk_is_full_for_a_while(small_disk: Path, mail: MailServer, tmp_path: Path) -> None:
    mail.script("dot", wait(0.01))
    with Cluster(chosen_binaries(), OPTIONS) as cluster:
        assert small_disk in cluster.data.parents
        fill_with_story(cluster.dsn())
        database = Database(cluster.dsn())
        settings = {
            "PGHERALD_DATABASE_URL": database.url,
            "PGHERALD_SMTP_URL": mail.url,
            "PGHERALD_LOG_FORMAT": "json",
            **NO_POLL,
        }
        plans = add_plans(database, 2000)
        with Pgherald(settings, tmp_path).daemon() as daemon:
            database.verify(*plans)
            wait_until(lambda: len(mail.messages) > 200)
            ballast = small_disk / "ballast"
            subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=64k"], capture_output=True)
            error = wait_until(lambda: next((e["error"] for e in daemon.events if e["event"] in WAITS), None))
            print(f"{error}; after {len(mail.messages)} mails")
            ballast.unlink()
            if cluster.pid is None:
                cluster.start()
            wait_sent(database, 2000, 60)
            assert_calm(daemon)
        assert times_each([mail]) == {1: 2000}
        assert doubted(database) == 0
        database.close()
