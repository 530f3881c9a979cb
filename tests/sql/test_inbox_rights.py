"""Only a capture writes a change. The application's role reaches the inbox by nothing else, and the daemon's may empty it."""

from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from tests.support.claimant import RULE, Claimant
from tests.support.database import Database
from tests.support.inbox import add_changes, changes

Session = psycopg.Connection[Any]
STATEMENTS = {
    "SELECT": "SELECT key FROM pgherald.inbox",
    "INSERT": "INSERT INTO pgherald.inbox VALUES ('dateplan_verified', '7', now(), '7')",
    "COPY": "COPY pgherald.inbox FROM STDIN",
    "UPDATE": "UPDATE pgherald.inbox SET key = '7'",
    "DELETE": "DELETE FROM pgherald.inbox",
    "TRUNCATE": "TRUNCATE pgherald.inbox",
    "LOCK": "DO $$ BEGIN LOCK TABLE pgherald.inbox; END $$",
    "ALTER": "ALTER TABLE pgherald.inbox SET (autovacuum_enabled = off)",
    "shrink": "SELECT pgherald.shrink_inbox()",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON pgherald.inbox FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "capture": "SELECT pgherald.capture_dateplan_verified()",
}


@pytest.mark.parametrize("usage", [False, True], ids=["no right", "USAGE on the schema"])
@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_the_applications_role_is_refused(
    sandbox: Database, application: Session, role: str, statement: Any, usage: bool
) -> None:
    """Also if it may use the schema, as a login for monitoring may."""
    add_changes(sandbox, 1)
    if usage:
        sandbox.execute(sql.SQL("GRANT USAGE ON SCHEMA pgherald TO {}").format(sql.Identifier(role)))
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute(statement)
    assert changes(sandbox) == 1


def test_it_captures_all_the_same(sandbox: Database, application: Session) -> None:
    application.execute("CREATE TABLE app.plans (id int PRIMARY KEY, status text)")
    sandbox.execute("SELECT pgherald.watch('plans', 'app.plans')")
    application.execute("INSERT INTO app.plans VALUES (1, 'VE')")
    assert sandbox.execute("SELECT rule, key FROM pgherald.inbox") == [("plans", "1")]


def test_names_early_in_its_search_path_are_not_used(sandbox: Database, application: Session) -> None:
    application.execute(
        """CREATE TABLE app.plans (id int PRIMARY KEY, status text);
           CREATE TABLE app.inbox (rule text, key text);
           CREATE TEMPORARY TABLE inbox (rule text, key text);
           CREATE FUNCTION app.octet_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$"""
    )
    sandbox.execute("SELECT pgherald.watch('plans', 'app.plans')")
    application.execute("SET search_path = pg_temp, app, pg_catalog; SET pgherald.traceparent = 'x'")
    application.execute("INSERT INTO app.plans VALUES (1, 'VE')")
    assert sandbox.execute("SELECT rule, key FROM pgherald.inbox") == [("plans", "1")]


@pytest.mark.parametrize("usage", [False, True], ids=["no right", "USAGE on the schema"])
def test_the_capture_function_forges_no_change_from_another_table(
    sandbox: Database, application: Session, role: str, usage: bool
) -> None:
    """It runs with its owner's rights. The application's role may not call it, whatever schemas it may use."""
    application.execute("CREATE TABLE app.forged (id bigint PRIMARY KEY, status text)")
    if usage:
        sandbox.execute(sql.SQL("GRANT USAGE ON SCHEMA pgherald TO {}").format(sql.Identifier(role)))
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute(
            """CREATE TRIGGER t AFTER INSERT ON app.forged FOR EACH ROW
               EXECUTE FUNCTION pgherald.capture_dateplan_verified()"""
        )
    assert changes(sandbox) == 0


def as_role(database: Database, role: str) -> Session:
    conn = database.connect()
    conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
    return conn


def test_the_daemons_role_takes_changes_over_and_shrinks(database: Database, daemon_role: str) -> None:
    add_changes(database, 2)
    conn = as_role(database, daemon_role)
    worker = Claimant(conn, "worker")
    assert [event["key"] for event in worker.claim()] == ["1", "2"]
    assert conn.execute("SELECT pgherald.shrink_inbox()").fetchall() == [(False,)]


@pytest.mark.parametrize("name", ["INSERT", "COPY", "TRUNCATE", "trigger", "ALTER"])
def test_the_daemons_role_cannot_forge_a_change(database: Database, daemon_role: str, name: str) -> None:
    add_changes(database, 1)
    with pytest.raises(errors.InsufficientPrivilege):
        as_role(database, daemon_role).execute(STATEMENTS[name])  # type: ignore[call-overload]
    assert database.execute("SELECT rule, key FROM pgherald.inbox") == [(RULE, "1")]
