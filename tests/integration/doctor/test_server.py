"""Each fault of the server is named by its check, and the other checks stay ok."""

from types import SimpleNamespace

import psycopg
import pytest

from listener.demo.cluster import Cluster
from listener.doctor import server
from listener.doctor.result import CheckResult
from tests.support import wait_until
from tests.support.database import Database, fill_with_story
from tests.support.doctor import Examine, names, set_for_all
from tests.support.standby import Standby


def test_a_release_with_the_known_fault(
    plan: int, database: Database, doctor: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    major, minor = divmod(database.value("SELECT current_setting('server_version_num')::integer"), 10000)
    monkeypatch.setattr(server, "FIXED_MINOR", {major: minor + 1})
    names(doctor(), "server", "warn", f"PostgreSQL {major}.{minor}", f"{major}.{minor + 1}")
    monkeypatch.setattr(server, "MIN_MAJOR", major + 1)
    names(doctor(), "server", "fault", "too old")


def test_a_clock_that_is_wrong(plan: int, doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = server.time.time
    monkeypatch.setattr(server, "time", SimpleNamespace(time=lambda: real() + 60))
    names(doctor(), "clock", "warn", "60 s behind", "NTP")


def test_a_standby(doctor: Examine, cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE story")
    url = f"{cluster.dsn().rpartition('/')[0]}/story"
    fill_with_story(url)
    with Standby(cluster) as standby:
        other = f"{standby.dsn().rpartition('/')[0]}/story"
        names(doctor(PGHERALD_DATABASE_URL=other), "standby", "fault", "point [database] url at the primary")
        findings = doctor(PGHERALD_DATABASE_URL=url, PGHERALD_DATABASE_LISTEN_URL=other)
        names(findings, "listen", "fault", "listen_url leads to a standby")
        for attrs in ("", "?target_session_attrs=any"):
            findings = doctor(PGHERALD_DATABASE_URL=url, PGHERALD_DATABASE_LOOKUP_URL=f"{other}{attrs}")
            login = findings.pop("login")
            assert "superuser" in login.seen
            names(findings, "standby", "fault", "lookup_url leads to a standby", "at the primary")


def test_a_database_set_to_read_only(plan: int, database: Database, doctor: Examine) -> None:
    set_for_all(database, "default_transaction_read_only", "on")
    names(doctor(), "standby", "fault", "default_transaction_read_only is on", "sourcefile")


def named(doctor: Examine, word: str) -> dict[str, CheckResult]:
    """The findings that have `word` in the check of transactions.

    Here everything older than 10 ms counts. A transaction of another test's database may be older than all of this one,
    and doctor's own statements see its number: for a moment they are the oldest.
    """

    def findings() -> dict[str, CheckResult] | None:
        found = doctor()
        return found if word in found["transactions"].seen else None

    found = wait_until(findings)
    assert found is not None
    return found


def test_a_long_transaction(plan: int, database: Database, doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_TRANSACTION_AGE_S", 0.01)
    with database.connect(application_name="forgotten") as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT pg_current_xact_id()")
        findings = named(doctor, "forgotten")
        names(findings, "transactions", "warn", f"pg_terminate_backend({conn.info.backend_pid})")
        conn.execute("PREPARE TRANSACTION 'left behind'")
        try:
            names(named(doctor, "prepared"), "transactions", "warn", "ROLLBACK PREPARED 'left behind'")
        finally:
            conn.execute("ROLLBACK PREPARED 'left behind'")


def test_what_an_old_snapshot_costs(
    plan: int, database: Database, doctor: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when there are many dead rows. The transaction has read, and written nothing."""
    monkeypatch.setattr(server, "MAX_TRANSACTION_AGE_S", 0.01)
    monkeypatch.setattr(server, "MIN_DEAD_ROWS", 500)
    with database.connect(application_name="report") as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT FROM public.plan")
        assert "dead rows" not in doctor()["transactions"].seen
        database.execute(
            "INSERT INTO pgherald.outbox (rule, key) SELECT 'r', g::text FROM generate_series(1, 1000) AS g"
        )
        database.execute("DELETE FROM pgherald.outbox WHERE rule = 'r'")
        dead = "SELECT pg_stat_get_dead_tuples('pgherald.outbox'::regclass) >= 500"
        wait_until(lambda: database.value(dead))
        names(
            doctor(), "transactions", "warn", f"pid {conn.info.backend_pid} (", "report", "dead rows", "index entries"
        )


def test_a_standby_that_holds_an_old_snapshot(
    doctor: Examine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MIN_DEAD_ROWS", 0)
    fill_with_story(cluster.dsn())
    with Standby(cluster) as standby:
        for setting in ("hot_standby_feedback = on", "wal_receiver_status_interval = 1"):
            with psycopg.connect(standby.dsn(), autocommit=True) as conn:
                conn.execute(f"ALTER SYSTEM SET {setting}")  # type: ignore[arg-type]
                conn.execute("SELECT pg_reload_conf()")
        with psycopg.connect(cluster.dsn(), autocommit=True) as primary:
            held = "SELECT FROM pg_stat_replication WHERE backend_xmin IS NOT NULL"
            wait_until(lambda: primary.execute(held).rowcount == 1)
        names(
            doctor(PGHERALD_DATABASE_URL=cluster.dsn()), "transactions", "warn", "the standby", "hot_standby_feedback"
        )
