"""What is missing or changed in the schema is named, and `install` or a GRANT is the remedy."""

from typing import LiteralString

import pytest
from psycopg import sql
from psycopg.rows import dict_row

from listener.db.install import daemon_grants
from listener.doctor.context import QUERIES
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.doctor import CAPTURE, HEALTHY, LOOKUP, TRIGGERS, Examine, as_role, ill, names


def test_not_installed(bare_database: Database, doctor: Examine) -> None:
    findings = doctor()
    assert ill(findings) == {"schema", LOOKUP}
    assert findings["schema"].remedy == "run `pgherald install`"
    assert findings[TRIGGERS].seen == "not checked: pgherald is not installed in this database"


@pytest.mark.parametrize(
    ("statement", "check", "state", "words"),
    [
        ("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 0",
         "schema", "fault", ("version 0 is installed, but this pgherald needs version 1", "pgherald install")),
        ("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 99",
         "schema", "fault", ("version 99 is installed", "update this pgherald")),
        ("DROP INDEX pgherald.outbox_available_idx", "schema", "fault", ("outbox_available_idx is missing",)),
        ("CREATE OR REPLACE FUNCTION pgherald.base_type(type oid) RETURNS oid LANGUAGE sql STABLE AS 'SELECT base_type.type'",
         "functions", "warn", ("base_type", "pgherald install")),
        ("DROP PROCEDURE pgherald.snapshot_existing", "functions", "fault", ("snapshot_existing",)),
    ],
    ids=["older", "newer", "no index", "changed function", "no function"],
)  # fmt: skip
def test_objects(
    plan: int,
    database: Database,
    doctor: Examine,
    statement: LiteralString,
    check: str,
    state: str,
    words: tuple[str, ...],
) -> None:
    database.execute(statement)
    names(doctor(), check, state, *words)


def test_install_mends_what_it_is_said_to(plan: int, database: Database, doctor: Examine, pgherald: Pgherald) -> None:
    database.execute(
        """DROP TRIGGER pgherald_dateplan_verified_insert ON public.dateplan;
           DROP INDEX pgherald.outbox_key_idx; DROP PROCEDURE pgherald.snapshot_existing;
           CREATE OR REPLACE FUNCTION pgherald.base_type(type oid) RETURNS oid LANGUAGE sql STABLE AS 'SELECT base_type.type';
           CREATE OR REPLACE FUNCTION pgherald.capture_dateplan_verified() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
               AS 'BEGIN RETURN NULL; END'"""
    )
    assert ill(doctor()) == HEALTHY | {"schema", "functions", TRIGGERS, CAPTURE}
    pgherald("install", check=True)
    assert ill(doctor()) == HEALTHY


def test_the_daemons_role(plan: int, database: Database, daemon_role: str, doctor: Examine) -> None:
    url = as_role(database, daemon_role)
    findings = doctor(PGHERALD_DATABASE_URL=url)
    assert ill(findings) == HEALTHY
    assert findings["grants"].seen == f"role {daemon_role} has all privileges that the daemon needs"
    for grant in daemon_grants().split(";"):
        if not grant.strip():
            continue
        revoke = grant.strip().replace("GRANT", "REVOKE").replace("TO pgherald_daemon", f"FROM {daemon_role}")
        database.execute(sql.SQL(revoke))  # type: ignore[arg-type]
        names(doctor(PGHERALD_DATABASE_URL=url), "grants", "fault", f"--grant-to {daemon_role}")
        database.execute(sql.SQL(grant.replace("pgherald_daemon", daemon_role)))  # type: ignore[arg-type]
    database.execute(sql.SQL("REVOKE SELECT ON public.users FROM {}").format(sql.Identifier(daemon_role)))
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "permission denied for table users", "GRANT SELECT")
    database.execute(sql.SQL("REVOKE pg_read_all_stats FROM {}").format(sql.Identifier(daemon_role)))
    assert "cannot see the sessions of other roles" in doctor(PGHERALD_DATABASE_URL=url)["transactions"].seen


def test_a_role_that_is_not_the_daemons_reads_one_short_line(
    database: Database, doctor: Examine, daemon_role: str
) -> None:
    database.execute(
        sql.SQL("DROP OWNED BY {0}; GRANT USAGE ON SCHEMA public TO {0}").format(sql.Identifier(daemon_role))
    )
    finding = doctor(PGHERALD_DATABASE_URL=as_role(database, daemon_role))["grants"]
    assert (finding.state, finding.seen) == ("fault", f"role {daemon_role} has none of the daemon's privileges")
    assert finding.remedy is not None
    assert finding.remedy.startswith("run doctor as the daemon's role, or make this one the daemon's: ")


def test_the_role_for_daemons_is_advised_where_it_has_the_rights(database: Database, daemon_role: str) -> None:
    """Roles are the cluster's: another database may have made pgherald_daemon, and membership gives nothing here."""
    role = sql.Identifier(daemon_role)
    database.execute(sql.SQL("DROP OWNED BY {}").format(role))
    with database.connect() as conn, conn.transaction(force_rollback=True):
        conn.execute("""DO $$ BEGIN CREATE ROLE pgherald_daemon; EXCEPTION WHEN duplicate_object THEN END $$""")

        def remedy() -> str:
            conn.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
            row = conn.cursor(row_factory=dict_row).execute(QUERIES["grants"]).fetchone()
            conn.execute("RESET ROLE")
            assert row
            assert row["stranger"]
            return str(row["remedy"])

        assert remedy() == f"pgherald install --grant-to {daemon_role}"
        conn.execute("GRANT USAGE ON SCHEMA pgherald TO pgherald_daemon")
        assert remedy() == f"GRANT pgherald_daemon TO {daemon_role}"
