"""Any role can take any advisory lock: one that holds ours delays no email."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from listener.config.rules import default_rules
from listener.db import install
from listener.demo.cluster import Cluster
from listener.errors import SchemaError
from tests.support import wait_until
from tests.support.backlog import wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database, Databases, fill_with_story
from tests.support.mail import MailServer
from tests.support.smtpd import wait
from tests.support.web import ANY_PORT, Client

Session = psycopg.Connection[Any]
# By its poll a daemon would find an event after a minute; by its lease a death, after an hour.
PATIENT = {"PGHERALD_DELIVERY_POLL": "60s", "PGHERALD_DELIVERY_LEASE": "1h"}
SOON = 20.0
GATE, LEADER, INSTALLER = "726354, 1", "726354, 2", "726354, 3"


@pytest.fixture
def stranger(databases: Databases, database: Database) -> Iterator[Callable[[], Session]]:
    """Sessions of a role that may connect, and nothing else."""
    name = f"{databases.run}_stranger_{secrets.token_hex(4)}"
    password = "nobody"
    who = sql.Identifier(name)
    database.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(who, password))
    with ExitStack() as sessions:

        def connect() -> Session:
            url = make_conninfo(database.url, user=name, password=password, application_name="stranger")
            session = psycopg.connect(url, autocommit=True)
            sessions.callback(session.close)
            return session

        yield connect
    database.execute(sql.SQL("DROP ROLE {}").format(who))


def take(session: Session, lock: str) -> int:
    """Take it, waiting for its holder to let go; the server's process."""
    session.execute("SET statement_timeout = '20s'")
    session.execute(f"SELECT pg_advisory_lock({lock})")  # type: ignore[call-overload]
    return session.info.backend_pid


def mails(database: Database, mail: MailServer, number: int = 3) -> None:
    """One after the other, each soon."""
    before = len(mail.messages)
    for turn in range(1, number + 1):
        database.verify(database.add_plan("Café", f"a{before + turn}@example.org"))
        mail.wait_for(before + turn, timeout=SOON)


def named(daemon: Daemon, lock: str, pid: int) -> None:
    said = daemon.wait_event("lock_held_by_other_session", lock=lock, pid=pid, application="stranger", level="warning")
    assert "_stranger_" in said["user"]
    assert said["remedy"] == f"SELECT pg_terminate_backend({pid})"


def claims(client: Client) -> float:
    """How often the daemon has looked for work."""
    found = re.search(r"^pgherald_claim_batch_size_count ([\d.e+]+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def lost_session(database: Database, daemon: Daemon) -> None:
    """End its LISTEN session, as a failing network may."""
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pgherald.worker WHERE name LIKE %s AND has_presence_lock",
        (f"%:{daemon.pid}",),
    )
    daemon.wait_event("listen_disconnected")


def pid_of(database: Database, daemon: Daemon) -> int | None:
    rows = database.execute(
        "SELECT pid FROM pgherald.worker WHERE name LIKE %s AND has_presence_lock", (f"%:{daemon.pid}",)
    )
    return rows[0][0] if rows else None


@pytest.mark.slow
def test_the_leaders_lock(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session]
) -> None:
    session = stranger()
    pid = take(session, LEADER)
    with pgherald.daemon(env=PATIENT) as one, pgherald.daemon(env=PATIENT) as two:
        mails(database, mail)
        for daemon in (one, two):
            named(daemon, "leader", pid)
        session.close()
        for daemon in (one, two):
            daemon.wait_event("foreign_lock_released", lock="leader", pid=pid)
        wait_until(lambda: any(e["event"] == "leading" for e in one.events + two.events))
        mails(database, mail)
        said = [e for d in (one, two) for e in d.events if e["event"] == "lock_held_by_other_session"]
        assert len(said) == 2


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True], ids=["its session is lost", "it is killed"])
def test_a_stranger_waits_for_the_leaders_lock_and_gets_it(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session], dies: bool
) -> None:
    """The one that led is gone, and the lock goes to who has queued for it, not to another daemon."""
    with pgherald.daemon(env=PATIENT) as one:
        one.wait_event("leading")
        mails(database, mail, 1)
        session = stranger()
        session.execute("SET statement_timeout = '20s'")
        with ExitStack() as stack:
            two = stack.enter_context(pgherald.daemon(env=PATIENT))
            # One that has gone to sleep, to be woken by the leader's bell.
            wait_until(lambda: pid_of(database, two))
            session.pgconn.send_query(f"SELECT pg_advisory_lock({LEADER})".encode())
            session.pgconn.flush()
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted"
            wait_until(lambda: database.value(waits) == 1)
            if dies:
                one.kill()
            else:
                lost_session(database, one)
                named(one, "leader", session.info.backend_pid)
            named(two, "leader", session.info.backend_pid)
            mails(database, mail)


@pytest.mark.slow
def test_the_gates_lock(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session]
) -> None:
    session = stranger()
    pid = take(session, GATE)
    with pgherald.daemon(env={**PATIENT, **ANY_PORT}) as daemon:
        named(daemon, "gate", pid)
        mails(database, mail)
        # The applications ring: it need not look fifty times a second.
        client, begun = Client(daemon), time.monotonic()
        before = claims(client)
        status = json.loads(pgherald("status", "--json", check=True).stdout)
        assert status["gate"] == "open"
        [told] = status["foreign_locks"]
        assert (told["lock"], told["pid"], told["application"]) == ("gate", pid, "stranger")
        assert f"the gate lock is held by pid {pid} (user " in pgherald("status", check=True).stdout
        assert claims(client) - before < 10 * (time.monotonic() - begun)
        session.close()
        daemon.wait_event("foreign_lock_released", lock="gate")
        wait_until(lambda: json.loads(pgherald("status", "--json", check=True).stdout)["gate"] == "asleep")
        mails(database, mail)


@pytest.mark.slow
def test_a_number_that_is_taken_is_not_used(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session]
) -> None:
    """A stranger has queued for the worker's own lock, and has it when the worker comes back."""
    with pgherald.daemon(env=PATIENT) as one:
        one.wait_event("leading")
        before = wait_until(lambda: database.execute("SELECT lock FROM pgherald.worker WHERE has_presence_lock"))[0][0]
        session = stranger()
        session.pgconn.send_query(f"SELECT pg_advisory_lock(726355, {before})".encode())
        session.pgconn.flush()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: database.value(waits) == 1)
        lost_session(database, one)
        after = wait_until(
            lambda: database.execute(
                "SELECT lock FROM pgherald.worker WHERE has_presence_lock AND lock <> %s", (before,)
            )
        )
        named(one, "presence", session.info.backend_pid)
        held = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 726355 AND objid = %s::bigint::oid"
        )
        assert database.value(held, after[0]) == 1
        mails(database, mail)


@pytest.mark.slow
def test_a_death_is_seen_though_a_stranger_has_the_dead_ones_lock(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session]
) -> None:
    mail.script("dot", wait(60), times=1)
    with pgherald.daemon(env=PATIENT) as survivor, pgherald.daemon(env=PATIENT) as victim:
        wait_until(lambda: pid_of(database, victim) and pid_of(database, survivor))
        lock = database.value("SELECT lock FROM pgherald.worker WHERE name LIKE %s", (f"%:{victim.pid}",))
        session = stranger()
        # And hundreds of others.
        session.execute("SELECT pg_advisory_lock(726355, n) FROM generate_series(1, 500) AS n")
        session.pgconn.send_query(f"SELECT pg_advisory_lock(726355, {lock})".encode())
        session.pgconn.flush()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: database.value(waits) == 1)
        victim.kill()
        dead = time.time()
        survivor.wait_event("workers_rescued", SOON)
        print(f"taken over after {time.time() - dead:.2f} s")
        held = database.value(
            "SELECT count(*) FROM pg_locks WHERE pid = %s AND granted AND objid = %s::bigint::oid",
            (session.info.backend_pid, lock),
        )
        assert held == 1
        # Half a thousand numbers of one session are one line.
        shown = json.loads(pgherald("status", "--json", check=True).stdout)["foreign_locks"]
        assert [(h["lock"], h["pid"]) for h in shown] == [("presence", session.info.backend_pid)]


def test_the_installers_lock(
    database: Database, stranger: Callable[[], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = take(stranger(), INSTALLER)
    monkeypatch.setattr(install, "LOCK_TIMEOUT_S", 0.2)
    said: list[str] = []
    for step in install.install_steps(default_rules(), roles=True):
        if step.generates:
            continue  # it waits for no installer
        with pytest.raises(SchemaError) as caught:
            install.run(database.connect(), step, said.append, time.monotonic() + 1)
        assert f"held by pid {pid} (user " in str(caught.value)
        assert "application stranger" in str(caught.value)
        assert f"SELECT pg_terminate_backend({pid})" in str(caught.value)
        if step.table == "public.dateplan":
            break


def test_a_backfills_lock(pgherald: Pgherald, stranger: Callable[[], Session]) -> None:
    pid = take(stranger(), "726356, hashtext('dateplan_verified')")
    done = pgherald("backfill", "dateplan_verified")
    assert done.returncode == 1
    assert f"another session holds the lock of its backfill: pid {pid} (user " in done.stderr
    assert f"SELECT pg_terminate_backend({pid})" in done.stderr


@pytest.mark.slow
def test_a_lock_in_another_database_is_nobodys(
    databases: Databases, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with databases.fresh() as other:
        session = other.connect()
        for lock in (GATE, LEADER, INSTALLER):
            take(session, lock)
        # Nor is one that has the same numbers as one key.
        near = database.connect()
        near.execute("SELECT pg_advisory_lock((726354::bigint << 32) | n) FROM generate_series(1, 3) AS n")
        with pgherald.daemon(env=PATIENT) as daemon:
            daemon.wait_event("leading")
            mails(database, mail)
            assert json.loads(pgherald("status", "--json", check=True).stdout)["foreign_locks"] == []


@pytest.mark.slow
def test_a_prepared_transaction_is_named_too(
    database: Database, mail: MailServer, pgherald: Pgherald, stranger: Callable[[], Session]
) -> None:
    if int(database.value("SHOW max_prepared_transactions")) == 0:
        pytest.skip("this server has max_prepared_transactions = 0")
    session = stranger()
    gid = f"{session.info.dbname} it's"
    session.execute("BEGIN")
    session.execute(f"SELECT pg_advisory_xact_lock({LEADER})")  # type: ignore[call-overload]
    session.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
    try:
        with pgherald.daemon(env=PATIENT) as daemon:
            said = daemon.wait_event("lock_held_by_other_session", lock="leader", pid=None, prepared=gid)
            assert said["remedy"] == f"ROLLBACK PREPARED {sql.Literal(gid).as_string(None)}"
            mails(database, mail, 1)
    finally:
        database.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))


@pytest.mark.slow
def test_a_table_of_locks_that_is_full(cluster: Cluster, mail: MailServer, pgherald: Pgherald) -> None:
    """The server has no memory for a lock and says so: nothing crashes, and when there is some again, all goes on."""
    fill_with_story(cluster.dsn())
    database = Database(cluster.dsn())
    with pgherald.daemon(env={**PATIENT, "PGHERALD_DATABASE_URL": database.url}) as daemon:
        daemon.wait_event("leading")
        mails(database, mail, 1)
        session = database.connect()
        fill = "SELECT pg_advisory_lock(1, n) FROM generate_series(1, 1000000) AS n"
        with pytest.raises(errors.OutOfMemory):
            session.execute(fill)
        # Whatever the daemon asks for now, it is refused for want of memory.
        database.execute("SELECT pg_terminate_backend(pid) FROM pgherald.worker")
        for name in ("listen_disconnected", "listen_connect_failed"):
            daemon.wait_event(name)
        session.close()
        wait_until(lambda: database.value("SELECT count(*) < 1000 FROM pg_locks WHERE locktype = 'advisory'"))
        mails(database, mail)
        wait_sent(database, 4)
    database.close()


@pytest.mark.slow
def test_metrics_and_page(database: Database, pgherald: Pgherald, stranger: Callable[[], Session]) -> None:
    pid = take(stranger(), LEADER)
    with pgherald.daemon(env={**PATIENT, **ANY_PORT}) as daemon:
        client = Client(daemon)
        line = wait_until(
            lambda: re.search(r"^pgherald_foreign_lock_holder\{.*", client.get("/metrics").text, re.MULTILINE)
        )
        assert f'lock="leader",pid="{pid}"' in line[0]
        assert 'application="stranger"' in line[0]
        page = client.get("/").text
        assert f"SELECT pg_terminate_backend({pid})" in page
