"""The same file by psql and by `pgherald install`: once, again, while the application writes, and uninstalled."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from listener.db.schema_version import VERSION
from listener.resources import resource
from tests.fixtures.programs import Programs
from tests.support.claimant import Claimant
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, Databases

TRIGGERS = resource("sql/triggers.sql")
ROLES = resource("sql/roles.sql")
UNINSTALL = resource("sql/uninstall.sql")
STRICT = ("-v", "ON_ERROR_STOP=1")
WATCH = "SELECT pgherald.watch('dateplan_verified', 'public.dateplan')"
PARTED = """
    CREATE TABLE public.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE public.north PARTITION OF public.parted FOR VALUES IN ('north');
"""


@pytest.fixture
def story(bare_database: Database) -> Database:
    """The application's tables, and nothing of ours."""
    bare_database.execute(STORY)
    return bare_database


def run(programs: Programs, database: Database, *arguments: object, options: str = "") -> None:
    done = programs.psql(database, *STRICT, *arguments, options=options)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("together", [("-1",), ()], ids=["in one transaction", "statement by statement"])
def test_psql_runs_it_and_again(story: Database, programs: Programs, together: tuple[str, ...]) -> None:
    before = programs.dump(story, "-n", "public")
    run(programs, story, *together, "-f", TRIGGERS)
    assert programs.dump(story, "-n", "public") == before, "no table of the application's is touched"
    assert story.value("SELECT pgherald.version()") == VERSION
    story.execute(WATCH)
    plan = story.add_plan("Café", "jane@example.org")
    story.verify(plan)
    story.execute("CALL pgherald.snapshot_existing('dateplan_verified')")
    story.take_over()
    first = programs.dump(story), everything(story)
    run(programs, story, *together, "-f", TRIGGERS)
    story.execute(WATCH)
    assert (programs.dump(story), everything(story)) == first


def everything(database: Database) -> list[Any]:
    """All that is in our tables."""
    names = database.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace AND relkind = 'r'"
    )
    assert {"pgherald.outbox", "pgherald.rule", "pgherald.secret", "pgherald.rate_limit"} <= {name for (name,) in names}
    return [database.execute(f"SELECT * FROM {name} ORDER BY 1") for (name,) in sorted(names)]


def test_psql_and_install_do_the_same(
    story: Database, databases: Databases, programs: Programs, pgherald: Pgherald
) -> None:
    pgherald("install", check=True)
    with databases.fresh() as other:
        other.execute(STORY)
        run(programs, other, "-1", "-f", TRIGGERS, "-c", WATCH)
        assert programs.dump(other) == programs.dump(story)


def test_install_prints_what_psql_can_run(
    story: Database, databases: Databases, programs: Programs, pgherald: Pgherald
) -> None:
    printed = pgherald("install", "--print", check=True).stdout
    assert story.value("SELECT to_regnamespace('pgherald')") is None
    path = pgherald.folder / "install.sql"
    path.write_text(printed, encoding="utf-8")
    run(programs, story, "-f", path)
    with databases.fresh() as other:
        other.execute(STORY)
        pgherald("install", check=True, env={"PGHERALD_DATABASE_URL": other.url})
        assert programs.dump(other) == programs.dump(story)
        assert (
            other.value("SELECT snapshot_done FROM pgherald.rule")
            is story.value("SELECT snapshot_done FROM pgherald.rule")
            is True
        )


def test_install_twice(story: Database, programs: Programs, pgherald: Pgherald) -> None:
    old = story.add_plan("Bar", "john@example.org", status="VE")
    pgherald("install", check=True)
    new = story.add_plan("Café", "jane@example.org")
    story.verify(new)
    story.take_over()
    first = programs.dump(story), everything(story)
    assert story.execute("SELECT key FROM pgherald.handled") == [(str(old),)]
    done = pgherald("install", check=True)
    assert done.stderr == ""
    assert (programs.dump(story), everything(story)) == first
    assert [event["key"] for event in story.events()] == [str(new)]


@pytest.fixture
def roles(databases: Databases) -> Iterator[None]:
    """Roles are the whole server's: one test at a time."""
    with psycopg.connect(databases.url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('pgherald roles'))")
        yield


def test_the_second_time_no_writer_is_waited_for(
    story: Database, programs: Programs, pgherald: Pgherald, roles: None
) -> None:
    """Its open transaction holds the application's table and, with an event captured, the outbox."""
    pgherald("install", "--create-roles", check=True)
    story.execute(PARTED)
    watch = "SELECT pgherald.watch('parted', 'public.parted', '{id,region}')"
    story.execute(watch)
    plan = story.add_plan("Café", "jane@example.org")
    writer = story.connect()
    with writer.transaction():
        writer.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))
        writer.execute("INSERT INTO public.parted VALUES (1, 'north', 'VE')")
        run(programs, story, "-1", "-f", TRIGGERS, "-f", ROLES, "-c", WATCH, "-c", watch, options="-c lock_timeout=1s")
        done = pgherald("install", "--create-roles", check=True)
        assert "waiting for a lock" not in done.stderr
    assert len(story.events()) == 2


def test_the_second_time_no_writer_waits(story: Database, programs: Programs) -> None:
    """Nor does one that comes while the file's transaction is open."""
    run(programs, story, "-1", "-f", TRIGGERS, "-c", WATCH)
    plan = story.add_plan("Café", "jane@example.org")
    dba, writer = story.connect(), story.connect(options="-c lock_timeout=1s")
    with dba.transaction():
        dba.execute(TRIGGERS.read_bytes())
        dba.execute(WATCH)
        writer.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))
    assert [event["key"] for event in story.events()] == [str(plan)]


def test_the_roles(story: Database, programs: Programs, roles: None) -> None:
    """All is the owner's, capture functions made later by a superuser too; the daemon's role can do its work, and no more."""
    run(programs, story, "-1", "-f", TRIGGERS, "-f", ROLES, "-c", WATCH)
    owners = """SELECT DISTINCT owner::regrole::text FROM (
                    SELECT relowner FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace
                    UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace
                    UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'pgherald') AS objects (owner)"""
    assert story.execute(owners) == [("pgherald_owner",)]
    run(programs, story, "-1", "-f", ROLES, "-f", TRIGGERS)
    assert story.execute(owners) == [("pgherald_owner",)]
    log_in = "SELECT rolcanlogin OR rolsuper FROM pg_roles WHERE rolname IN ('pgherald_owner', 'pgherald_daemon')"
    assert story.execute(log_in) == [(False,), (False,)]
    plans = [story.add_plan("Café", "jane@example.org") for _ in range(3)]
    story.verify(*plans)

    daemon = story.connect()
    daemon.execute("SET ROLE pgherald_daemon")
    worker = Claimant(daemon, "daemon")
    sent, skipped, doubted = worker.claim()
    worker.mark(sent)
    worker.settle(sent, "sent")
    worker.settle(skipped, "skipped", reason="no_consent")
    worker.mark(doubted)
    worker.settle(doubted, "in_doubt", delay=0)
    assert worker.rescue()["due"] == worker.resend() == 1
    assert worker.waiting() == (1, 0)
    assert worker.renew()
    worker.unregister()
    for query in (
        "SELECT pgherald.version(), pgherald.usable_from()",
        "SELECT value FROM pgherald.secret",
        "TABLE pgherald.rule",
        "TABLE pgherald.handled",
        "UPDATE pgherald.rule SET paused_at = now() RETURNING rule",
        "UPDATE pgherald.rate_limit SET rate = 5, throttled_at = now(), next_at = now() RETURNING rate",
    ):
        assert len(daemon.execute(query).fetchall()) <= 1
    for statement in (
        "SELECT pgherald.watch('mine', 'public.dateplan')",
        "SELECT pgherald.unwatch('dateplan_verified')",
        "UPDATE pgherald.rule SET becomes = '{XX}'",
        "UPDATE pgherald.secret SET value = 'known'",
        "INSERT INTO pgherald.rate_limit DEFAULT VALUES",
        "DELETE FROM pgherald.rate_limit",
        "TRUNCATE pgherald.outbox",
        "CREATE TABLE pgherald.mine ()",
        "TABLE public.users",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            daemon.execute(statement)


def test_uninstall_leaves_the_database_as_it_was(story: Database, programs: Programs) -> None:
    story.execute(PARTED)
    before = programs.dump(story)
    run(programs, story, "-1", "-f", TRIGGERS, "-c", WATCH)
    story.execute("SELECT pgherald.watch('parted', 'public.parted', '{id,region}'), pgherald.watch('other', 'public.plan', becomes => '{x}', \"column\" => 'place')")  # fmt: skip
    story.verify(story.add_plan("Café", "jane@example.org"))
    assert programs.dump(story) != before
    run(programs, story, "-1", "-f", UNINSTALL, options="-c client_min_messages=warning")
    assert programs.dump(story) == before
    story.execute("UPDATE public.dateplan SET status = 'PE'; UPDATE public.dateplan SET status = 'VE'")
    assert story.execute("SELECT status FROM public.dateplan") == [("VE",)]
    run(programs, story, "-1", "-f", TRIGGERS)
    assert story.events() == []


def test_uninstall_by_command(story: Database, programs: Programs, pgherald: Pgherald) -> None:
    before = programs.dump(story)
    pgherald("install", check=True)
    story.verify(story.add_plan("Café", "jane@example.org"))
    refused = pgherald("uninstall")
    assert refused.returncode == 1
    assert "not settled" in refused.stderr
    assert len(story.events()) == 1
    asks = pgherald("uninstall", "--force")
    assert asks.returncode == 1
    assert "the history of 1 event, 1 of them not sent; confirm with --yes" in asks.stderr
    assert len(story.events()) == 1
    pgherald("uninstall", "--force", "--yes", check=True)
    assert programs.dump(story) == before


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_uninstall_asks_on_a_terminal(database: Database, pgherald: Pgherald, answer: str, status: int) -> None:
    database.verify(database.add_plan("Café", "jane@example.org"))
    master, terminal = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    try:
        done = subprocess.run(
            pgherald._command(["uninstall", "--force"]), env=pgherald._environment(None), cwd=pgherald.folder,
            stdin=terminal, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(master)
    name = database.value("SELECT current_database()")
    assert f"Remove pgherald from database {name}" in done.stdout + done.stderr
    assert "with the history of 1 event, 1 of them not sent? [y/N]" in done.stdout + done.stderr
    assert done.returncode == status
    assert database.value("SELECT to_regnamespace('pgherald') IS NULL") is (status == 0)


def test_a_dump_restored_captures_no_event_and_goes_on(
    story: Database, databases: Databases, programs: Programs
) -> None:
    """Triggers come after the data; and the version, a function, comes along."""
    run(programs, story, "-1", "-f", TRIGGERS, "-c", WATCH)
    plan = story.add_plan("Café", "jane@example.org")
    story.verify(plan)
    with databases.fresh() as other:
        programs.copy(story, other)
        assert [event["key"] for event in other.events()] == [str(plan)]
        assert other.value("SELECT pgherald.version()") == VERSION
        assert other.value("SELECT value FROM pgherald.secret") == story.value("SELECT value FROM pgherald.secret")
        other.execute("UPDATE public.dateplan SET status = 'PE'; UPDATE public.dateplan SET status = 'VE'")
        assert [event["key"] for event in other.events()] == [str(plan)] * 2
        before = programs.dump(other)
        run(programs, other, "-1", "-f", TRIGGERS, "-c", WATCH)
        assert programs.dump(other) == before


@pytest.mark.parametrize("file", [TRIGGERS, ROLES, UNINSTALL], ids=lambda file: file.name)
def test_a_database_of_any_encoding_takes_it(file: Path) -> None:
    assert file.read_bytes().isascii()


@pytest.mark.parametrize(
    ("built", "named"),
    [
        ("CREATE VIEW public.mine AS SELECT rule FROM pgherald.outbox", "view public.mine"),
        ("CREATE MATERIALIZED VIEW public.mine AS SELECT pgherald.version()", "materialized view public.mine"),
        (
            "CREATE FUNCTION public.mine() RETURNS bigint LANGUAGE sql RETURN (SELECT max(id) FROM pgherald.outbox)",
            "function public.mine()",
        ),
        ("CREATE TABLE public.mine (event bigint REFERENCES pgherald.outbox)", "mine_event_fkey on table public.mine"),
    ],
)
def test_uninstall_drops_nothing_that_others_have_built(
    story: Database, programs: Programs, built: str, named: str
) -> None:
    run(programs, story, "-1", "-f", TRIGGERS, "-c", WATCH)
    story.execute(built)
    before = programs.dump(story)
    done = programs.psql(story, *STRICT, "-1", "-f", UNINSTALL)
    assert done.returncode != 0
    assert "other objects use schema pgherald: " in done.stderr
    assert named in done.stderr
    assert programs.dump(story) == before
