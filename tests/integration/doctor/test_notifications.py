"""Notifications that do not arrive, locks that others hold, and daemons in trouble."""

import threading

import psycopg
import pytest
from psycopg import sql

from listener.demo.cluster import Cluster
from tests.support.database import OPTIONS, Database, Databases, fill_with_story
from tests.support.doctor import HEALTHY, RULE, Examine, ill, names
from tests.support.pgbouncer import PgBouncer


def test_a_queue_that_fills(doctor: Examine) -> None:
    with Cluster(options={**OPTIONS, "max_notify_queue_pages": 64}) as cluster:
        url = cluster.dsn()
        fill_with_story(url)
        with psycopg.connect(url, autocommit=True) as ear, psycopg.connect(url, autocommit=True) as mouth:
            ear.execute("LISTEN elsewhere")
            ear.execute("BEGIN")
            fill = sql.SQL("SELECT pg_notify('elsewhere', repeat('x', 7000) || i) FROM generate_series(1, {}) AS i")
            mouth.execute(fill.format(15))
            findings = doctor(PGHERALD_DATABASE_URL=url)
            names(findings, "queue", "warn", "% full")
            mouth.execute(fill.format(30))
            findings = doctor(PGHERALD_DATABASE_URL=url)
            names(findings, "queue", "fault", "% full")


@pytest.mark.slow
def test_a_transaction_pooler(plan: int, database: Database, doctor: Examine) -> None:
    with PgBouncer(database.url) as pooler:
        names(doctor(PGHERALD_DATABASE_URL=pooler.url), "listen", "warn", "transaction pooler", "listen_url")
        findings = doctor(PGHERALD_DATABASE_URL=pooler.url, PGHERALD_DATABASE_LISTEN_URL=database.url)
        assert ill(findings) == HEALTHY
        assert findings["database"].seen.endswith("through a pooler")
    with PgBouncer(database.url, "session") as pooler:
        assert ill(doctor(PGHERALD_DATABASE_URL=pooler.url)) == HEALTHY


def test_listening_elsewhere(plan: int, databases: Databases, doctor: Examine) -> None:
    names(doctor(PGHERALD_DATABASE_LISTEN_URL=databases.url), "listen", "warn", "not to where the events are")
    url = "postgresql://127.0.0.1:1/x"
    names(doctor(PGHERALD_DATABASE_LISTEN_URL=url), "listen", "fault", "refused", "listen_url")


def test_others_that_ring_do_not_disturb(plan: int, database: Database, doctor: Examine) -> None:
    over = threading.Event()

    def ring() -> None:
        with psycopg.connect(database.url, autocommit=True) as conn:
            while not over.is_set():
                conn.execute("NOTIFY pgherald")

    ringing = threading.Thread(target=ring)
    ringing.start()
    try:
        assert ill(doctor()) == HEALTHY
    finally:
        over.set()
        ringing.join()


def test_a_gate_held_by_a_stalled_session(plan: int, database: Database, doctor: Examine) -> None:
    add = sql.SQL("INSERT INTO pgherald.outbox (rule, key, scheduled_at) VALUES ({}, '1', now() + {}::interval)")
    database.execute(add.format("another_rule", "-1 min"))
    database.execute(add.format(RULE, "1 min"))
    with database.connect(application_name="stalled") as conn:
        conn.execute("SELECT pg_advisory_lock(726354, 1)")
        # A stranger's is no sleeping daemon's.
        findings = doctor()
        assert findings["gate"].seen == "open: no daemon waits for a notification"
        pid = conn.info.backend_pid
        names(findings, "locks", "fault", f"gate lock is held by pid {pid}", "stalled", f"pg_terminate_backend({pid})")
        database.execute(
            "INSERT INTO pgherald.worker (name, version, lease, pid, listening) VALUES ('host:1', '1', '1 min', %s, true)",
            (pid,),
        )
        findings = doctor()
        assert ill(findings) == set()
        assert "no event is overdue" in findings["gate"].seen
        database.execute(add.format(RULE, "-1 min"))
        names(
            doctor(), "gate", "fault", f"pid {pid}", "stalled", "1 events are overdue", f"pg_terminate_backend({pid})"
        )
        # A daemon that leaves a paused or a suspended rule alone does what it should.
        database.execute("UPDATE pgherald.rule SET paused_at = now()")
        assert "no event is overdue" in doctor()["gate"].seen
        database.execute("UPDATE pgherald.rule SET paused_at = NULL")
        suspend = "UPDATE pgherald.worker SET suspended_rules = ARRAY[{}], suspended_since = ARRAY[now()], suspended_reasons = '{{x}}'"
        database.execute(sql.SQL(suspend).format(RULE))
        assert "no event is overdue" in doctor()["gate"].seen
    # With nobody asleep they are merely waiting. The suspended rule is a fault of its own.
    assert ill(doctor()) == {"daemon"}


def test_an_installer_is_no_stranger(plan: int, database: Database, doctor: Examine) -> None:
    with database.connect() as conn:
        conn.execute("SELECT pg_advisory_lock(726354, 3)")
        findings = doctor()
        assert ill(findings) == HEALTHY
        assert f"an installer is running: pid {conn.info.backend_pid}" in findings["locks"].seen


def test_a_daemon_with_trouble_of_its_own(plan: int, database: Database, doctor: Examine) -> None:
    database.execute(
        "INSERT INTO pgherald.worker (name, version, lease, listening, breaker_reason) VALUES ('host:1', '1', '1 min', true, '535 no')"
    )
    finding = doctor()["daemon"]
    assert (finding.state, finding.seen) == (
        "warn",
        "host:1 has paused, because the mail server is unavailable: 535 no",
    )
    # The check smtp sends no message, so it does not see a sender that is refused.
    assert "send-test" in finding.remedy
    database.execute(
        "UPDATE pgherald.worker SET suspended_rules = %s, suspended_since = ARRAY[now()], suspended_reasons = '{no column}'",
        ([RULE],),
    )
    # The file may be correct by now: then the daemon runs with an older one.
    finding = doctor()["daemon"]
    assert finding.state == "fault"
    assert finding.seen.startswith(f"{RULE} is suspended since")
    assert finding.seen.endswith("no column")
    assert "systemctl reload pgherald" in finding.remedy
    database.execute(
        "UPDATE pgherald.worker SET suspended_rules = '{}', suspended_since = '{}', suspended_reasons = '{}'"
    )
    database.execute("UPDATE pgherald.worker SET breaker_reason = NULL, listening = false")
    assert doctor()["daemon"].seen == "host:1 polls, because LISTEN does not work there"
    database.execute("UPDATE pgherald.worker SET listening = true")
    assert ill(doctor()) == set()
    database.execute("UPDATE pgherald.worker SET seen_at = now() - interval '2 min'")
    assert ill(doctor()) == HEALTHY
