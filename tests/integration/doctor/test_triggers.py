"""Triggers and capture functions that were changed are told from those that only look different."""

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.doctor.result import State
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.doctor import (
    CAPTURE,
    HEALTHY,
    LOOKUP,
    RULE,
    TRIGGERS,
    Examine,
    all_checked,
    ill,
    names,
    rule_with,
    set_for_all,
)


@pytest.mark.parametrize(
    ("statement", "check", "state", "words"),
    [
        ("DROP TRIGGER pgherald_dateplan_verified_update ON public.dateplan", TRIGGERS, "fault",
         ("pgherald_dateplan_verified_update", "missing", "pgherald backfill dateplan_verified --dry-run")),
        ("ALTER TABLE public.dateplan DISABLE TRIGGER USER", TRIGGERS, "fault",
         ("_insert on public.dateplan and", "are disabled", "ENABLE TRIGGER pgherald_dateplan_verified_update", "ENABLE TRIGGER pgherald_dateplan_verified_insert")),
        ("ALTER TABLE public.dateplan ENABLE REPLICA TRIGGER pgherald_dateplan_verified_update", TRIGGERS, "fault",
         ("replication only", "ENABLE TRIGGER")),
        ("DELETE FROM pgherald.rule", TRIGGERS, "fault", ("not installed", "pgherald install")),
        ("UPDATE pgherald.rule SET becomes = '{XX}'", TRIGGERS, "fault", ("'XX'", "differs from [rules.dateplan_verified]")),
        ("ALTER FUNCTION pgherald.capture_dateplan_verified() SECURITY INVOKER", CAPTURE, "fault",
         ("the application's rights", "SECURITY DEFINER")),
        ("""CREATE OR REPLACE FUNCTION pgherald.capture_dateplan_verified() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            AS 'BEGIN RETURN NULL; END'""", CAPTURE, "fault", ("was changed by hand", "pgherald install")),
        # As after ALTER SCHEMA pgherald OWNER: the former owner has no right on the schema.
        ("""ALTER TABLE pgherald.inbox OWNER TO pg_monitor;
            ALTER FUNCTION pgherald.capture_dateplan_verified() OWNER TO pg_monitor""", CAPTURE, "fault",
         ("may not use schema pgherald", "writes fail", "GRANT USAGE ON SCHEMA pgherald TO pg_monitor")),
    ],
    ids=["no trigger", "disabled", "replica", "not watched", "watched otherwise", "invoker", "changed capture", "schema's owner"],
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


def test_a_table_that_was_dropped(database: Database, doctor: Examine) -> None:
    database.execute("DROP TABLE public.dateplan CASCADE")
    findings = doctor()
    assert findings[TRIGGERS].seen == "table public.dateplan does not exist"
    assert findings[CAPTURE].seen == "not checked: the watched table was dropped"


def test_a_table_that_another_of_its_name_replaces(database: Database, doctor: Examine) -> None:
    database.execute(
        """CREATE TABLE public.fresh (LIKE public.dateplan INCLUDING ALL); DROP TABLE public.dateplan CASCADE;
           ALTER TABLE public.fresh RENAME TO dateplan"""
    )
    findings = doctor()
    assert "watches public.dateplan (dropped).status = 'VE'" in findings[TRIGGERS].seen
    assert "pgherald install" in findings[TRIGGERS].remedy
    assert findings[CAPTURE].seen == "not checked: the watched table was dropped"


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
    assert "public.dateplan no longer has column id, so nothing is captured" in findings[TRIGGERS].seen
    assert findings[CAPTURE].seen == "not checked: the capture function uses a column that no longer exists"
    database.execute(
        "ALTER TABLE public.dateplan RENAME number TO id; ALTER TABLE public.dateplan RENAME status TO state"
    )
    findings = doctor()
    assert "has column status" not in findings[TRIGGERS].seen, "a row trigger's condition follows the new name"
    assert "status of public.dateplan was renamed" in findings[TRIGGERS].seen
    assert "pgherald rewatch dateplan_verified" in findings[TRIGGERS].remedy
    database.execute("ALTER TABLE public.dateplan RENAME state TO status")
    database.execute(PER_STATEMENT)
    database.execute("ALTER TABLE public.dateplan RENAME status TO state")
    assert (
        "no longer has column status, so nothing is captured" in doctor(rule_with(capture="statement"))[TRIGGERS].seen
    )


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
            "SELECT pgherald.watch(%s, %s, '{id}', 'its State', ARRAY[%s])", (f"rule_{i}", f"public.typed_{i}", value)
        )
        rules[f"rule_{i}"] = {"table": f"public.typed_{i}", "column": "its State", "becomes": value}

    def change(settings: Settings) -> Settings:
        base = settings.rules[RULE].model_dump(exclude_unset=True)
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


def test_an_owner_who_can_make_no_partitions(database: Database, doctor: Examine, daemon_role: str) -> None:
    """At midnight, when the next partition is due, the application's rows would have none."""
    database.execute(
        """CREATE TABLE public.parted (id int PRIMARY KEY, status text) PARTITION BY RANGE (id);
           CREATE TABLE public.first PARTITION OF public.parted FOR VALUES FROM (1) TO (100);
           SELECT pgherald.watch('dateplan_verified', 'public.parted')"""
    )
    parted = rule_with(table="public.parted")
    owner = sql.Identifier(daemon_role)
    database.execute(sql.SQL("ALTER TABLE public.parted OWNER TO {}").format(owner))
    finding = doctor(parted)[CAPTURE]
    assert finding.state == State.fault
    assert f"{daemon_role}, the owner of the partitioned table" in finding.seen
    assert "neither create nor attach a partition" in finding.seen
    assert "pgherald install" in finding.remedy
    # As `install` does.
    database.execute("SELECT pgherald.watch('dateplan_verified', 'public.parted')")
    assert doctor(parted)[CAPTURE].state == State.ok
    database.execute("ALTER TABLE public.parted OWNER TO CURRENT_USER")


def test_session_replication_role(
    plan: int, databases: Databases, database: Database, daemon_role: str, doctor: Examine
) -> None:
    name = sql.Identifier(database.value("SELECT current_database()"))
    database.execute(sql.SQL("ALTER DATABASE {} SET session_replication_role = replica").format(name))
    names(doctor(), "replication", "fault", "every role in database", "ALTER DATABASE", "RESET", "backfill")
    database.execute(sql.SQL("ALTER DATABASE {} RESET session_replication_role").format(name))

    who = sql.Identifier(daemon_role)
    database.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET session_replication_role = replica").format(who, name))
    # It reads only, and so changes nothing unseen.
    assert ill(doctor()) == HEALTHY
    database.execute(sql.SQL("GRANT UPDATE (status) ON public.dateplan TO {}").format(who))
    names(doctor(), "replication", "fault", daemon_role, "IN DATABASE")
    database.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} RESET session_replication_role").format(who, name))

    url = f"{database.url}?options=-c%20session_replication_role%3Dreplica"
    names(doctor(PGHERALD_DATABASE_URL=url), "replication", "fault", "this one")
