"""doctor names each fault by its own check, and the other checks stay ok."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.config import settings as config
from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.db.schema import daemon_grants
from listener.demo.cluster import Cluster
from listener.doctor import notifications, server
from listener.doctor.checks import examine
from listener.doctor.result import CheckResult, State
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import OPTIONS, Database, Databases, fill_with_story
from tests.support.mail import MailServer
from tests.support.pgbouncer import PgBouncer
from tests.support.smtpd import answer
from tests.support.standby import Standby

RULE = "dateplan_verified"
TRIGGERS, CAPTURE, LOOKUP, TEMPLATE, MAIL = (
    f"{kind} {RULE}" for kind in ("triggers", "capture", "lookup", "template", "mail")
)
HEALTHY = {"daemon"}

Examine = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def doctor(pgherald: Pgherald, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """What the checks find, by name; with the settings of the test's command, and more of them."""
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(pgherald.folder)
    monkeypatch.setattr(notifications, "LISTEN_TIMEOUT_S", 1.0)
    # The server of the tests may be of a release with the known fault.
    monkeypatch.setattr(server, "FIXED_MINOR", {})

    def run(change: Callable[[Settings], Settings] = lambda settings: settings, **more: str) -> dict[str, CheckResult]:
        with monkeypatch.context() as patch:
            for name, value in {**pgherald.settings, **more}.items():
                patch.setenv(name, value)
            return asyncio.run(_collect(change(config.load())))

    return run


async def _collect(settings: Settings) -> dict[str, CheckResult]:
    return {finding.check: finding async for finding in examine(settings)}


@pytest.fixture
def plan(database: Database) -> int:
    return database.add_plan("Café", "a@example.org")


def ill(findings: dict[str, CheckResult]) -> set[str]:
    """Those that are not ok, less those that say what they lack to be checked, and that the tests connect as a superuser."""
    return {
        name
        for name, finding in findings.items()
        if finding.state is not State.ok
        and not finding.seen.startswith("not checked: ")
        and not (name == "lookup login" and "is a superuser" in finding.seen)
    }


def names(findings: dict[str, CheckResult], check: str, state: str, *words: str) -> None:
    """Only `check` found something, in these words, and says what to do."""
    assert ill(findings) - HEALTHY == {check}
    finding = findings[check]
    assert finding.state == state
    assert finding.remedy
    for word in words:
        assert word in f"{finding.seen} -> {finding.remedy}"


def all_checked(findings: dict[str, CheckResult]) -> bool:
    return not any(finding.seen.startswith("not checked: ") for finding in findings.values())


def rule_with(**changes: Any) -> Callable[[Settings], Settings]:
    def change(settings: Settings) -> Settings:
        rule = settings.rules[RULE]
        return settings.model_copy(update={"rules": {RULE: Rule(**{**rule.model_dump(), **changes})}})

    return change


def without(text: str, part: str, other: str = "") -> str:
    assert part in text
    return text.replace(part, other)


# What the command says, and with which exit status.


def of_its_release(database: Database) -> set[str]:
    """The check that is not ok because of the release of the tests' own server."""
    major, minor = divmod(database.value("SELECT current_setting('server_version_num')::integer"), 10000)
    return {"server"} if minor < server.FIXED_MINOR.get(major, 0) else set()


def test_healthy(plan: int, database: Database, pgherald: Pgherald, mail: MailServer) -> None:
    done = pgherald("doctor", "--json", check=True)
    findings = json.loads(done.stdout)
    assert all(finding["seen"] and bool(finding["remedy"]) == (finding["state"] != "ok") for finding in findings)
    assert all(set(finding) == {"check", "state", "seen", "remedy"} for finding in findings)
    assert {finding["check"] for finding in findings if finding["state"] != "ok"} == (
        HEALTHY | {"lookup login"} | of_its_release(database)
    )
    assert len(findings) == 25
    assert mail.smtpd.seen["mail"] == 0
    assert pgherald("doctor", "--strict").returncode == 1
    lines = pgherald("doctor", check=True).stdout.splitlines()
    assert len(lines) == len(findings)
    assert "warn   daemon: no daemon is running; events wait -> start one: pgherald run" in lines


def test_healthy_with_a_daemon(plan: int, database: Database, role: str, pgherald: Pgherald) -> None:
    env = {"PGHERALD_DATABASE_URL": as_role(database, role)}
    with pgherald.daemon(env=env):
        wait_until(lambda: pgherald("doctor", "--strict", env=env).returncode == len(of_its_release(database)))


def test_a_fault_is_an_exit_status(database: Database, pgherald: Pgherald) -> None:
    database.execute("ALTER TABLE public.dateplan DISABLE TRIGGER pgherald_dateplan_verified_insert")
    done = pgherald("doctor")
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert "pgherald_dateplan_verified_insert on public.dateplan is disabled" in line
    assert "-> ALTER TABLE public.dateplan ENABLE TRIGGER pgherald_dateplan_verified_insert" in line


def test_an_empty_table_is_no_fault(database: Database, doctor: Examine) -> None:
    findings = doctor()
    assert ill(findings) == HEALTHY
    assert all_checked(findings)


def test_a_check_that_breaks_hides_no_other(plan: int, doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(_: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(notifications, "queue", breaks)
    findings = doctor()
    assert len(findings) == 25
    assert ill(findings) == HEALTHY
    assert findings["queue"].seen == "not checked: ZeroDivisionError: unforeseen"


# The server.


def test_no_database_hides_no_other_fault(doctor: Examine, mail: MailServer) -> None:
    mail.stop()
    findings = doctor(PGHERALD_DATABASE_URL="postgresql://127.0.0.1:1/x", PGHERALD_MAIL_FROM="a@localhost")
    assert ill(findings) == {"database", "sender", "smtp"}
    assert "refused" in findings["database"].seen
    assert all(bool(finding.remedy) == (finding.state is not State.ok) for finding in findings.values())
    assert len(findings) == 25


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
        names(doctor(PGHERALD_DATABASE_URL=other), "standby", "fault", "target_session_attrs=read-write")
        findings = doctor(PGHERALD_DATABASE_URL=url, PGHERALD_DATABASE_LISTEN_URL=other)
        names(findings, "listen", "fault", "listen_url leads to a standby")


def set_for_all(database: Database, name: str, value: str) -> None:
    statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
    database.execute(statement.format(*map(sql.Identifier, (database.value("SELECT current_database()"), name, value))))


def test_a_database_set_to_read_only(plan: int, database: Database, doctor: Examine) -> None:
    set_for_all(database, "default_transaction_read_only", "on")
    names(doctor(), "standby", "fault", "default_transaction_read_only is on", "sourcefile")


def test_a_long_transaction(plan: int, database: Database, doctor: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_TRANSACTION_AGE_S", 0.01)
    with database.connect(application_name="forgotten") as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT pg_current_xact_id()")
        names(doctor(), "transactions", "warn", "forgotten", f"pg_terminate_backend({conn.info.backend_pid})")
        conn.execute("PREPARE TRANSACTION 'left behind'")
        try:
            names(doctor(), "transactions", "warn", "prepared", "ROLLBACK PREPARED 'left behind'")
        finally:
            conn.execute("ROLLBACK PREPARED 'left behind'")


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


# What install put there.


def test_not_installed(bare_database: Database, doctor: Examine) -> None:
    findings = doctor()
    assert ill(findings) == {"schema", LOOKUP}
    assert findings["schema"].remedy == "run `pgherald install`"
    assert findings[TRIGGERS].seen == "not checked: pgherald is not installed in this database"


@pytest.mark.parametrize(
    ("statement", "check", "state", "words"),
    [
        ("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 0",
         "schema", "fault", ("needs version", "pgherald install")),
        ("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 99",
         "schema", "fault", ("version 99 is installed", "can use only", "update this pgherald")),
        ("DROP FUNCTION pgherald.usable_from()", "schema", "fault", ("pgherald.usable_from() is missing", "pgherald install")),
        ("DROP INDEX pgherald.outbox_available_idx", "schema", "fault", ("outbox_available_idx is missing",)),
        ("CREATE OR REPLACE FUNCTION pgherald.base_type(type oid) RETURNS oid LANGUAGE sql STABLE AS 'SELECT base_type.type'",
         "functions", "warn", ("base_type", "pgherald install")),
        ("DROP PROCEDURE pgherald.snapshot_existing", "functions", "fault", ("snapshot_existing",)),
        ("DROP TRIGGER pgherald_dateplan_verified_update ON public.dateplan", TRIGGERS, "fault",
         ("pgherald_dateplan_verified_update", "missing", "pgherald backfill dateplan_verified --dry-run")),
        ("ALTER TABLE public.dateplan DISABLE TRIGGER USER", TRIGGERS, "fault",
         ("_insert on public.dateplan and", "are disabled", "ENABLE TRIGGER pgherald_dateplan_verified_update", "ENABLE TRIGGER pgherald_dateplan_verified_insert")),
        ("ALTER TABLE public.dateplan ENABLE REPLICA TRIGGER pgherald_dateplan_verified_update", TRIGGERS, "fault",
         ("replication only", "ENABLE TRIGGER")),
        ("DELETE FROM pgherald.rule", TRIGGERS, "fault", ("not installed", "pgherald install")),
        ("UPDATE pgherald.rule SET value = 'XX'", TRIGGERS, "fault", ("'XX'", "differs from [rules.dateplan_verified]")),
        ("ALTER FUNCTION pgherald.capture_dateplan_verified() SECURITY INVOKER", CAPTURE, "fault",
         ("the application's rights", "SECURITY DEFINER")),
        ("""CREATE OR REPLACE FUNCTION pgherald.capture_dateplan_verified() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            AS 'BEGIN RETURN NULL; END'""", CAPTURE, "fault", ("was changed by hand", "pgherald install")),
    ],
    ids=["older", "newer", "no version function", "no index", "changed function", "no function", "no trigger", "disabled", "replica",
         "not watched", "watched otherwise", "invoker", "changed capture"],
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


CONDITION = "NEW.status = 'VE' AND OLD.status IS DISTINCT FROM NEW.status"
FUNCTION = "pgherald.capture_dateplan_verified()"


@pytest.mark.parametrize(
    ("when", "condition", "function", "words"),
    [
        ("AFTER UPDATE", "NEW.status = 'XX' AND OLD.status IS DISTINCT FROM NEW.status", FUNCTION, "another condition"),
        ("AFTER UPDATE", "NEW.status = 'VE'", FUNCTION, "another condition"),
        ("AFTER UPDATE", f"{CONDITION} AND NEW.id > 100", FUNCTION, "another condition"),
        ("AFTER UPDATE OF status", CONDITION, FUNCTION, "at other times"),
        ("BEFORE UPDATE", CONDITION, FUNCTION, "at other times"),
        ("AFTER UPDATE", CONDITION, "suppress_redundant_updates_trigger()", "calls another function"),
    ],
)
def test_a_trigger_changed_by_hand_and_its_remedy(
    plan: int,
    database: Database,
    doctor: Examine,
    when: LiteralString,
    condition: LiteralString,
    function: LiteralString,
    words: str,
) -> None:
    database.execute("DROP TRIGGER pgherald_dateplan_verified_update ON public.dateplan")
    database.execute(
        sql.SQL(
            f"CREATE TRIGGER pgherald_dateplan_verified_update {when} ON public.dateplan FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {function}"
        )
    )
    findings = doctor()
    names(findings, TRIGGERS, "fault", "pgherald_dateplan_verified_update", words)
    remedy, _, _ = findings[TRIGGERS].remedy.partition("; then")
    database.execute(sql.SQL(remedy))  # type: ignore[arg-type]
    assert ill(doctor()) == HEALTHY


PER_STATEMENT = "SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => 'statement')"


def test_captured_per_statement(plan: int, database: Database, doctor: Examine) -> None:
    database.execute(PER_STATEMENT)
    names(doctor(), TRIGGERS, "warn", "the triggers capture per statement", 'capture = "row"', "pgherald install")
    statement = rule_with(capture="statement")
    assert ill(doctor(statement)) == HEALTHY
    assert all_checked(doctor(statement))
    name = "pgherald_dateplan_verified_update"
    for trigger, words in (
        ("REFERENCING OLD TABLE AS new_rows NEW TABLE AS old_rows FOR EACH STATEMENT", "transition tables"),
        ("FOR EACH STATEMENT", "transition tables"),
        ("FOR EACH ROW", "at other times"),
    ):
        database.execute(
            sql.SQL(
                f"CREATE OR REPLACE TRIGGER {name} AFTER UPDATE ON public.dateplan {trigger} EXECUTE FUNCTION {FUNCTION}"
            )  # type: ignore[arg-type]
        )
        findings = doctor(statement)
        names(findings, TRIGGERS, "fault", name, words)
        database.execute(sql.SQL(findings[TRIGGERS].remedy.partition("; then")[0]))  # type: ignore[arg-type]
        assert ill(doctor(statement)) == HEALTHY
    database.execute("CREATE TABLE public.more () INHERITS (public.dateplan)")
    names(doctor(statement), TRIGGERS, "fault", "part of an inheritance tree", 'capture = "row"')


def test_a_column_that_capture_names_is_renamed(plan: int, database: Database, doctor: Examine) -> None:
    database.execute("ALTER TABLE public.dateplan RENAME id TO number")
    findings = doctor()
    assert ill(findings) == HEALTHY | {TRIGGERS, LOOKUP}
    assert "public.dateplan no longer has column id, so every write" in findings[TRIGGERS].seen
    assert findings[CAPTURE].seen == "not checked: the capture function uses a column that no longer exists"
    database.execute(
        "ALTER TABLE public.dateplan RENAME number TO id; ALTER TABLE public.dateplan RENAME status TO state"
    )
    assert "has column status" not in doctor()[TRIGGERS].seen, "a row trigger's condition follows the new name"
    database.execute("ALTER TABLE public.dateplan RENAME state TO status")
    database.execute(PER_STATEMENT)
    database.execute("ALTER TABLE public.dateplan RENAME status TO state")
    assert "no longer has column status, so every write" in doctor(rule_with(capture="statement"))[TRIGGERS].seen


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


TYPES: list[tuple[LiteralString, str]] = [
    ("varchar(20)", "VE"), ("char(4)", "VE"), ("text", "it's (a) \\ '::text' = "), ("integer", "5"), ("bigint", "-5"),
    ("smallint", "5"), ("boolean", "true"), ("numeric(10,2)", "1.50"), ("date", "2026-01-02"), ("public.kind", "VE"),
    ('public."Kind of"', "VE"), ("public.kind_or_less", "VE"), ("public.short", "VE"),
    ("timestamp with time zone", "2026-01-02"), ("double precision", "0.1"), ("uuid", "c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f3"),
]  # fmt: skip


def test_no_type_of_column_looks_changed(database: Database, doctor: Examine) -> None:
    database.execute(
        """CREATE TYPE public.kind AS ENUM ('PE', 'VE'); CREATE TYPE public."Kind of" AS ENUM ('PE', 'VE');
           CREATE DOMAIN public.kind_or_less AS public.kind; CREATE DOMAIN public.short AS varchar(9) CHECK (VALUE <> 'XX')"""
    )
    rules = {}
    for i, (type, value) in enumerate(TYPES):
        table = sql.Identifier("public", f"typed_{i}")
        column = sql.SQL('CREATE TABLE {} (id bigint PRIMARY KEY, "its State" {})')
        database.execute(column.format(table, sql.SQL(type)))
        database.execute(
            "SELECT pgherald.watch(%s, %s, '{id}', 'its State', %s)", (f"rule_{i}", f"public.typed_{i}", value)
        )
        rules[f"rule_{i}"] = {"table": f"public.typed_{i}", "column": "its State", "becomes": value}

    def change(settings: Settings) -> Settings:
        base = settings.rules[RULE].model_dump()
        return settings.model_copy(update={"rules": {name: Rule(**{**base, **rule}) for name, rule in rules.items()}})

    findings = doctor(change)
    seen = {finding.seen for check, finding in findings.items() if check.startswith(("triggers ", "capture "))}
    assert seen == {f"pgherald.capture_{name}() is unchanged" for name in rules} | {
        f"on {rule['table']}, enabled and unchanged" for rule in rules.values()
    }


def test_names_are_shown_with_and_without_quotes(plan: int, database: Database, doctor: Examine) -> None:
    set_for_all(database, "quote_all_identifiers", "on")
    assert ill(doctor()) == HEALTHY
    with psycopg.connect(database.url) as conn:
        conn.execute(
            "SELECT pgherald.unwatch('dateplan_verified'), pgherald.watch('dateplan_verified', 'public.dateplan')"
        )
    assert ill(doctor()) == HEALTHY


def test_a_remedy_for_a_table_whose_name_needs_quotes(database: Database, doctor: Examine) -> None:
    database.execute(
        """CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."Plan" (id int PRIMARY KEY, status text);
           SELECT pgherald.watch('dateplan_verified', '"Odd"."Plan"');
           ALTER TABLE "Odd"."Plan" DISABLE TRIGGER USER"""
    )
    odd = rule_with(table='"Odd"."Plan"')
    remedy, _, _ = doctor(odd)[TRIGGERS].remedy.partition("; then")
    database.execute(sql.SQL(remedy))  # type: ignore[arg-type]
    assert doctor(odd)[TRIGGERS].state is State.ok


def test_a_table_that_has_come_to_inherit(plan: int, database: Database, doctor: Examine, pgherald: Pgherald) -> None:
    database.execute("CREATE TABLE public.more () INHERITS (public.dateplan)")
    names(doctor(), TRIGGERS, "fault", "on public.more is missing", "pgherald install")
    pgherald("install", check=True)
    assert ill(doctor()) == HEALTHY


def test_a_partition_whose_trigger_is_disabled(database: Database, doctor: Examine) -> None:
    database.execute(
        """CREATE TABLE public.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
           CREATE TABLE public.north PARTITION OF public.parted FOR VALUES IN ('north');
           CREATE TABLE public.south PARTITION OF public.parted FOR VALUES IN ('south');
           SELECT pgherald.watch('dateplan_verified', 'public.parted', '{id,region}')"""
    )
    parted = rule_with(table="public.parted", key=("id", "region"))
    findings = doctor(parted)
    assert findings[TRIGGERS].state == findings[CAPTURE].state == State.ok
    database.execute("ALTER TABLE public.south DISABLE TRIGGER pgherald_dateplan_verified_update")
    finding = doctor(parted)[TRIGGERS]
    assert finding.state == State.fault
    assert "pgherald_dateplan_verified_update on public.south is disabled" in finding.seen


@pytest.fixture
def role(databases: Databases, database: Database) -> Iterator[str]:
    """A role with the daemon's rights, and those that the lookup needs."""
    name = f"{databases.run}_doctor_{os.getpid()}"
    who = sql.Identifier(name)
    database.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(who))
    database.execute(sql.SQL("GRANT SELECT ON public.dateplan, public.users, public.plan TO {}").format(who))
    database.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(who))
    database.execute(sql.SQL(daemon_grants().replace("pgherald_daemon", name)))  # type: ignore[arg-type]
    yield name
    database.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(who))
    database.execute(sql.SQL("DROP ROLE {}").format(who))


def test_the_daemons_role(plan: int, database: Database, role: str, doctor: Examine) -> None:
    url = as_role(database, role)
    findings = doctor(PGHERALD_DATABASE_URL=url)
    assert ill(findings) == HEALTHY
    assert findings["grants"].seen == f"role {role} has all privileges that the daemon needs"
    for grant in daemon_grants().split(";"):
        if not grant.strip():
            continue
        revoke = grant.strip().replace("GRANT", "REVOKE").replace("TO pgherald_daemon", f"FROM {role}")
        database.execute(sql.SQL(revoke))  # type: ignore[arg-type]
        names(doctor(PGHERALD_DATABASE_URL=url), "grants", "fault", f"--grant-to {role}")
        database.execute(sql.SQL(grant.replace("pgherald_daemon", role)))  # type: ignore[arg-type]
    database.execute(sql.SQL("REVOKE SELECT ON public.users FROM {}").format(sql.Identifier(role)))
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "permission denied for table users", "GRANT SELECT")
    database.execute(sql.SQL("REVOKE pg_read_all_stats FROM {}").format(sql.Identifier(role)))
    assert "cannot see the sessions of other roles" in doctor(PGHERALD_DATABASE_URL=url)["transactions"].seen


def test_row_level_security(plan: int, database: Database, role: str, doctor: Examine) -> None:
    url = as_role(database, role)
    database.execute("ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY")
    assert ill(doctor()) == HEALTHY, "nothing hides from a superuser"
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "shows", "no row of public.dateplan", "CREATE POLICY")
    database.execute("CREATE POLICY own ON public.dateplan USING (plan_id % 2 = 1)")
    findings = doctor(PGHERALD_DATABASE_URL=url)
    names(findings, LOOKUP, "warn", "may hide rows of public.dateplan", "BYPASSRLS")
    remedy, _, _ = findings[LOOKUP].remedy.partition("; or")
    database.execute(sql.SQL(remedy))  # type: ignore[arg-type]
    assert ill(doctor(PGHERALD_DATABASE_URL=url)) == HEALTHY
    database.execute("CREATE POLICY less ON public.dateplan AS RESTRICTIVE USING (plan_id > 0)")
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "warn", "may hide rows of public.dateplan")
    database.execute("ALTER TABLE public.dateplan DISABLE ROW LEVEL SECURITY")
    # Of a table that the lookup reads.
    database.execute("ALTER TABLE public.users ENABLE ROW LEVEL SECURITY")
    names(doctor(PGHERALD_DATABASE_URL=url), LOOKUP, "fault", "no row of public.users")


def as_role(database: Database, role: str) -> str:
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    return psycopg.conninfo.make_conninfo(**{**parts, "user": role, "password": "secret"})


def test_session_replication_role(
    plan: int, databases: Databases, database: Database, role: str, doctor: Examine
) -> None:
    name = sql.Identifier(database.value("SELECT current_database()"))
    database.execute(sql.SQL("ALTER DATABASE {} SET session_replication_role = replica").format(name))
    names(doctor(), "replication", "fault", "every role in database", "ALTER DATABASE", "RESET", "backfill")
    database.execute(sql.SQL("ALTER DATABASE {} RESET session_replication_role").format(name))

    who = sql.Identifier(role)
    database.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET session_replication_role = replica").format(who, name))
    # It reads only, and so changes nothing unseen.
    assert ill(doctor()) == HEALTHY
    database.execute(sql.SQL("GRANT UPDATE (status) ON public.dateplan TO {}").format(who))
    names(doctor(), "replication", "fault", role, "IN DATABASE")
    database.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} RESET session_replication_role").format(who, name))

    url = f"{database.url}?options=-c%20session_replication_role%3Dreplica"
    names(doctor(PGHERALD_DATABASE_URL=url), "replication", "fault", "this one")


# Lookup and template.

BY_KEY = "WHERE d.id = ANY (%(keys)s::bigint[])"


@pytest.mark.parametrize(
    ("part", "other", "check", "words"),
    [
        ("u.email,", "", LOOKUP, "'email'"),
        ("p.place", "p.plaice", LOOKUP, "plaice"),
        (", p.place", "", LOOKUP, "'place'"),
        ("d.id AS key", "d.id / 0 AS key", LOOKUP, "DivisionByZero"),
    ],
)
def test_a_lookup_that_fails(plan: int, doctor: Examine, part: str, other: str, check: str, words: str) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, part, other))(settings)

    findings = doctor(change)
    names(findings, check, "fault", words, "[rules.dateplan_verified] lookup")
    assert findings[TEMPLATE].seen == "not checked: the template compiles, but its lookup failed"


def test_a_lookup_without_index(database: Database, plan: int, doctor: Examine) -> None:
    def change(settings: Settings) -> Settings:
        return rule_with(lookup=without(settings.rules[RULE].lookup, BY_KEY, "WHERE d.id::text = ANY (%(keys)s)"))(
            settings
        )

    # While it is small, nobody minds.
    assert ill(doctor(change)) == HEALTHY
    database.execute("INSERT INTO public.dateplan (user_id) SELECT 1 FROM generate_series(1, 3000)")
    database.execute("ANALYZE public.dateplan")
    assert ill(doctor()) == HEALTHY
    names(doctor(change), LOOKUP, "warn", "the whole of public.dateplan (about 3001 rows)", "CREATE INDEX")


def test_a_template_that_takes_what_the_lookup_does_not_give(plan: int, doctor: Examine) -> None:
    def change(settings: Settings) -> Settings:
        lookup = without(settings.rules[RULE].lookup, ", p.place")
        return rule_with(lookup=lookup, require=())(settings)

    names(doctor(change), TEMPLATE, "fault", "{{ place }}", "add it to the SELECT")


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("{{ plaice }}", "fault", ("'plaice'",)),
        ("{% if %}", "fault", ("body.txt.j2", "line 1")),
        ("{{ 1 // 0 }}", "fault", ("fails for 2 of 2 rows", "ZeroDivisionError", "pgherald preview")),
        ("{{ 1 // (place | length - 4) }}", "warn", ("fails for 1 of 2 rows", "key 1:", "ZeroDivisionError")),
    ],
    ids=["undefined", "syntax", "every row", "one row"],
)
def test_a_template_that_fails(
    plan: int, database: Database, doctor: Examine, tmp_path: Path, text: str, state: str, words: tuple[str, ...]
) -> None:
    database.add_plan("Elsewhere", "b@example.org")
    # Never mailed, and so nothing that a template need bear.
    database.add_plan(None, "c@example.org")
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text(text)
    names(doctor(PGHERALD_MAIL_TEMPLATES=str(folder.parent)), TEMPLATE, state, *words)


@pytest.mark.parametrize(
    ("part", "text", "check", "words"),
    [
        ("body.html", "<b>{{ place | safe }}</b>", TEMPLATE, ("becomes markup in the HTML", "remove | safe")),
        ("body.html", "<b title={{ place }}></b>", TEMPLATE, ("becomes markup in the HTML", "quotes")),
        ("body.txt", "at {{ place }}", TEMPLATE, ("begin a new line", "| oneline")),
        ("body.txt", "{{ place.index('f') }}", TEMPLATE, ("fails for a text that contains markup", "any text")),
        ("body.html", "<p>{{ place }}</p>", MAIL, ("<html> has no lang", "pgherald preview")),
        ("subject.txt", "", MAIL, ("the subject is empty",)),
    ],
    ids=["safe", "no quotes", "a line of its own", "hostile", "remarks", "no subject"],
)
def test_a_mail_that_is_not_right(
    plan: int, doctor: Examine, tmp_path: Path, part: str, text: str, check: str, words: tuple[str, ...]
) -> None:
    folder = tmp_path / "templates" / RULE
    folder.mkdir(parents=True)
    page = '<html lang="en"><meta charset="utf-8">' if words[0].startswith("becomes") else ""
    (folder / f"{part}.j2").write_text(page + text)
    names(doctor(PGHERALD_MAIL_TEMPLATES=str(folder.parent)), check, "warn", *words)


def test_translations_are_tried_too(plan: int, doctor: Examine, tmp_path: Path) -> None:
    def change(settings: Settings) -> Settings:
        lookup = without(settings.rules[RULE].lookup, ", p.place", ", p.place, NULL::text AS language")
        return rule_with(lookup=lookup)(settings)

    findings = doctor(change)
    assert ill(findings) == HEALTHY
    assert findings[TEMPLATE].seen.endswith("in 2 languages")
    folder = tmp_path / "templates" / RULE / "de"
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text("bei {{ place }}")
    names(doctor(change, PGHERALD_MAIL_TEMPLATES=str(tmp_path / "templates")), TEMPLATE, "warn", "text part (de)")
    (folder / "body.txt.j2").write_text("bei {{ ort }}")
    names(doctor(change, PGHERALD_MAIL_TEMPLATES=str(tmp_path / "templates")), TEMPLATE, "fault", "{{ ort }}")


def test_links_that_lead_nowhere(plan: int, doctor: Examine) -> None:
    linked = rule_with(link="/dateplans/{key}", unsubscribe="SELECT 1 WHERE '1' = ANY (%(keys)s)")
    names(doctor(linked), MAIL, "warn", "no button", "no List-Unsubscribe")
    there = {
        "PGHERALD_MAIL_BASE_URL": "https://app.example.org",
        "PGHERALD_HTTP_PUBLIC_URL": "https://mail.example.org",
    }
    assert ill(doctor(linked, **there)) == HEALTHY
    names(doctor(linked, **{**there, "PGHERALD_HTTP_PUBLIC_URL": "http://mail.example.org"}), MAIL, "warn", "not https")
    broken = rule_with(unsubscribe="DELETE FROM public.nobody WHERE id::text = ANY (%(keys)s)")
    names(doctor(broken, **there), f"unsubscribe {RULE}", "fault", "public.nobody", "correct [rules.dateplan_verified]")
    slug = rule_with(link="/dateplans/{slug}")
    names(doctor(slug, **there), TEMPLATE, "fault", "link uses {slug}")


def test_staging(plan: int, doctor: Examine, mail: MailServer, tmp_path: Path) -> None:
    mail.stop()
    env = {"PGHERALD_MAIL_TRANSPORT": "file", "PGHERALD_MAIL_DIRECTORY": str(tmp_path / "some" / "where")}
    findings = doctor(
        **env, PGHERALD_MAIL_ALLOWED_RECIPIENTS="@example.org", PGHERALD_MAIL_REDIRECT_TO="qa@example.org"
    )
    assert ill(findings) == HEALTHY
    assert findings["smtp"].seen == f"no mail server is used: messages go to {tmp_path}/some/where"
    assert findings["sender"].seen.endswith("only to @example.org, all redirected to qa@example.org")
    (tmp_path / "some").write_text("in the way")
    names(doctor(**env), "smtp", "fault", f"{tmp_path}/some is not a writable folder")
    assert ill(doctor(PGHERALD_MAIL_TRANSPORT="console")) == HEALTHY


# The notifications.


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
    # With nobody asleep they are merely waiting.
    assert ill(doctor()) == set()


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
    database.execute("UPDATE pgherald.worker SET breaker_reason = NULL, listening = false")
    assert doctor()["daemon"].seen == "host:1 polls, because LISTEN does not work there"
    database.execute("UPDATE pgherald.worker SET listening = true")
    assert ill(doctor()) == set()
    database.execute("UPDATE pgherald.worker SET seen_at = now() - interval '2 min'")
    assert ill(doctor()) == HEALTHY


# The mail server.


@pytest.mark.parametrize("key", ["FROM", "ENVELOPE_FROM"])
def test_a_sender_at_localhost(plan: int, doctor: Examine, key: str) -> None:
    findings = doctor(**{f"PGHERALD_MAIL_{key}": "pgherald <no-reply@localhost>"})
    names(findings, "sender", "warn", "localhost", f"PGHERALD_MAIL_{key}")


def test_no_mail_server(plan: int, doctor: Examine, mail: MailServer) -> None:
    mail.stop()
    names(doctor(), "smtp", "fault", "connect", "[smtp] url")
    mail.start()
    mail.script("greeting", answer("554 5.3.2 not today", then="close"))
    names(doctor(), "smtp", "fault", "greeting", "554 5.3.2 not today")


def test_tls(plan: int, doctor: Examine, mail: MailServer) -> None:
    names(doctor(PGHERALD_SMTP_URL=f"{mail.url}?starttls=required"), "smtp", "fault", "tls", "does not offer STARTTLS")
    with MailServer(security="starttls", names=["localhost"]) as secure:
        url = f"smtp://localhost:{secure.smtpd.port}?starttls=required"
        names(doctor(PGHERALD_SMTP_URL=url), "smtp", "fault", "tls", "certificate", "ca_file")
        known = {"PGHERALD_SMTP_CA_FILE": str(secure.smtpd.ca_file)}
        findings = doctor(PGHERALD_SMTP_URL=url, **known)
        assert ill(findings) == HEALTHY
        assert "STARTTLS" in findings["smtp"].seen
        other = url.replace("localhost", "127.0.0.1")
        names(doctor(PGHERALD_SMTP_URL=other, **known), "smtp", "fault", "tls", "127.0.0.1")


def test_auth(plan: int, doctor: Examine) -> None:
    with MailServer(security="tls", users={"herald": "right"}) as secure:
        known = {"PGHERALD_SMTP_CA_FILE": str(secure.smtpd.ca_file)}
        place = f"localhost:{secure.smtpd.port}"
        findings = doctor(PGHERALD_SMTP_URL=f"smtps://herald:wrong@{place}", **known)
        names(findings, "smtp", "fault", "auth", "535", "user and password")
        assert "wrong" not in findings["smtp"].seen
        findings = doctor(PGHERALD_SMTP_URL=f"smtps://herald:right@{place}", **known)
        assert ill(findings) == HEALTHY
        assert findings["smtp"].seen == f"{place} answers, TLS, valid certificate, logged in as herald"
