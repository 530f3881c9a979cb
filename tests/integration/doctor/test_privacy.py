"""Other readers of addresses and messages are named. tests/acceptance/test_privacy.py shows that the warnings are true."""

import psycopg
import pytest
from psycopg import sql

from tests.support.database import Database
from tests.support.doctor import HEALTHY, Examine, as_role, ill, names


def test_row_level_security_on_our_tables(plan: int, database: Database, doctor: Examine) -> None:
    database.execute("ALTER TABLE pgherald.handled ENABLE ROW LEVEL SECURITY")
    findings = doctor()
    names(findings, "row security", "fault", "pgherald.handled", "so the daemon's queries fail")
    database.execute(sql.SQL(findings["row security"].remedy))  # type: ignore[arg-type]
    assert ill(doctor()) == HEALTHY


def test_another_role_that_can_read_messages(plan: int, database: Database, daemon_role: str, doctor: Examine) -> None:
    database.execute("GRANT USAGE ON SCHEMA pgherald TO PUBLIC; GRANT SELECT ON pgherald.outbox TO PUBLIC")
    names(doctor(), "readers", "warn", "PUBLIC can read pgherald.outbox", "REVOKE ALL ON ALL TABLES")
    database.execute("REVOKE SELECT ON pgherald.outbox FROM PUBLIC; REVOKE USAGE ON SCHEMA pgherald FROM PUBLIC")
    assert ill(doctor()) == HEALTHY, "the daemon's role is no stranger"


def test_a_role_that_may_read_only_other_columns(plan: int, database: Database, doctor: Examine) -> None:
    """The columns of docs/django.md contain no address and no message."""
    database.execute(
        "GRANT USAGE ON SCHEMA pgherald TO pg_monitor; GRANT SELECT (id, key) ON pgherald.outbox TO pg_monitor"
    )
    database.execute("CREATE ROLE shop IN ROLE pg_monitor")
    try:
        assert ill(doctor()) == HEALTHY
        database.execute("GRANT SELECT (recipient) ON pgherald.outbox TO pg_monitor")
        names(doctor(), "readers", "warn", "shop can read pgherald.outbox")
    finally:
        database.execute("DROP ROLE shop")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("log_min_duration_statement", "0"), ("log_statement", "all"), ("log_parameter_max_length_on_error", "-1")],
)
def test_parameters_in_the_servers_log(
    plan: int, database: Database, doctor: Examine, setting: str, value: str
) -> None:
    changed = psycopg.conninfo.make_conninfo(database.url, options=f"-c {setting}={value}")
    names(doctor(PGHERALD_DATABASE_URL=changed), "server log", "warn", setting, "addresses and messages", "ALTER ROLE")


def test_the_login_of_lookups(plan: int, database: Database, daemon_role: str, doctor: Examine) -> None:
    assert "is a superuser" in doctor()["login"].seen
    daemon = as_role(database, daemon_role)
    assert doctor(PGHERALD_DATABASE_URL=daemon)["login"].seen.startswith(f"lookups run as {daemon_role}, like")
    same = doctor(PGHERALD_DATABASE_URL=daemon, PGHERALD_DATABASE_LOOKUP_URL=daemon)
    names(same, "login", "fault", f"{daemon_role}, which has the daemon's rights", "docs/dba.md")
    superuser = doctor(PGHERALD_DATABASE_URL=daemon, PGHERALD_DATABASE_LOOKUP_URL=database.url)
    names(superuser, "login", "fault", "a superuser", "a role of their own")
