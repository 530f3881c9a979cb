"""From the schema as it first was, with the daemon that came with it: both go on, and no event is lost or mailed twice."""

import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.resources import resource
from listener.schema import VERSION
from tests.sql.conftest import Programs, programs  # noqa: F401
from tests.sql.test_schema_shape import ROWS, insert
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, Databases
from tests.support.mail import MailServer

TESTS = Path(__file__).parents[1]
TABLES: LiteralString = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace AND relkind IN ('r', 'i', 'S')"


class Old(Pgherald):
    """The command as it was with version 1 of the schema."""

    @staticmethod
    def _command(arguments: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "listener", *map(str, arguments)]


@pytest.fixture
def old(pgherald: Pgherald, tmp_path: Path) -> Old:
    site = tmp_path / "site"
    with zipfile.ZipFile(TESTS / "packaging/versions/1.whl") as wheel:
        wheel.extractall(site)
    return Old({**pgherald.settings, "PYTHONPATH": str(site)}, tmp_path)


@pytest.fixture
def story(bare_database: Database) -> Database:
    """The application's tables, and nothing of ours."""
    bare_database.execute(STORY)
    return bare_database


@pytest.fixture
def roles(databases: Databases) -> Iterator[None]:
    """Roles are the whole server's: one test at a time."""
    with psycopg.connect(databases.url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('pgherald roles'))")
        yield


def plant_every_state(database: Database, rule: str) -> None:
    for number, (like, _) in enumerate(ROWS.items()):
        insert(database, like, rule=rule, key=str(number))


def test_every_event_is_kept_and_no_table_rewritten(
    story: Database,
    databases: Databases,
    old: Old,
    pgherald: Pgherald,
    programs: Programs,  # noqa: F811
    roles: None,
) -> None:
    story.add_plan("Bar", "john@example.org", status="VE")
    old("install", "--with-roles", check=True)
    assert story.value("SELECT pgherald.version()") == 1
    assert (TESTS / "sql/versions/1.sql").read_bytes() == (old.folder / "site/listener/sql/triggers.sql").read_bytes()
    plant_every_state(story, "dateplan_verified")
    before = [(story.events(), story.execute(f"SELECT * FROM pgherald.{name}")) for name in ("handled", "secret")]
    rules = story.execute("SELECT * FROM pgherald.rule")
    files = set(story.execute(TABLES))
    pgherald("install", "--with-roles", check=True)
    assert story.value("SELECT pgherald.version()") == VERSION
    after = [(story.events(), story.execute(f"SELECT * FROM pgherald.{name}")) for name in ("handled", "secret")]
    assert [event.pop("traceparent") for events, _ in after for event in events] == [None] * 2 * len(ROWS)
    assert after == before
    assert [row[: len(rules[0])] for row in story.execute("SELECT * FROM pgherald.rule")] == rules
    # One index gave way to one of another kind.
    assert {file for file in files if file[0] != "outbox_row_idx"} <= set(story.execute(TABLES))
    with databases.fresh() as other:
        other.execute(STORY)
        pgherald("install", "--with-roles", env={"PGHERALD_DATABASE_URL": other.url}, check=True)
        assert programs.dump(story) == programs.dump(other), "upgraded is as new"


def test_under_an_old_daemon_and_a_writer(story: Database, mail: MailServer, old: Old, pgherald: Pgherald) -> None:
    old("install", check=True)
    plant_every_state(story, "another_rule")
    others = story.execute("SELECT id, key FROM pgherald.outbox ORDER BY id")
    plans: list[int] = []
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.05):
            plan = story.add_plan("Café", f"{len(plans)}@example.org")
            story.verify(plan)
            plans.append(plan)

    def more(count: int = 5) -> None:
        reached = len(plans) + count
        wait_until(lambda: len(plans) >= reached)
        wait_until(lambda: settled(story) >= reached)

    with old.daemon() as before:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            more()
            pgherald("install", check=True)
            assert story.value("SELECT pgherald.version()") == VERSION
            more()
            refused = old("run", "--once")
            assert refused.returncode == 1
            assert f"version {VERSION}, newer than the 1 this one knows; update the daemon" in refused.stderr
            with pgherald.daemon() as after:
                more(20)
                assert before.stop() == 0
                more()
                over.set()
                writer.join()
                wait_until(lambda: settled(story) == len(plans))
        finally:
            over.set()
            writer.join()
    # Both have ended, and their logs are read to the end.
    sent = [[event["key"] for event in daemon.events if event["event"] == "event_sent"] for daemon in (before, after)]
    assert all(sent)
    assert sorted(map(int, sent[0] + sent[1])) == sorted(plans)
    assert sorted(message.recipient for message in mail.messages) == sorted(
        f"{i}@example.org" for i in range(len(plans))
    )
    assert story.execute("SELECT id, key FROM pgherald.outbox WHERE rule = 'another_rule' ORDER BY id") == others


def settled(database: Database) -> int:
    return int(
        database.value("SELECT count(*) FROM pgherald.outbox WHERE rule = 'dateplan_verified' AND state = 'sent'")
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (VERSION - 1, f"version {VERSION - 1}, this one works with {VERSION}; run `pgherald install`"),
        (VERSION + 1, f"version {VERSION + 1}, newer than the {VERSION} this one knows; update the daemon"),
    ],
)
def test_a_daemon_refuses_another_version(database: Database, pgherald: Pgherald, version: int, said: str) -> None:
    body = sql.SQL("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN {}")
    database.execute(body.format(version))
    refused = pgherald("run")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == f"Error: the database's pgherald is {said}"


def test_install_does_not_go_back(story: Database, programs: Programs, pgherald: Pgherald) -> None:  # noqa: F811
    """The older file would put its functions over the newer ones, and say so nowhere."""
    pgherald("install", check=True)
    story.execute("CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 99")
    before = programs.dump(story)
    refused = pgherald("install")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"Error: triggers.sql: the database's pgherald is version 99, newer than this file's {VERSION}; run the newer one's"
    ]
    done = programs.psql(story, "-v", "ON_ERROR_STOP=1", "-f", resource("sql/triggers.sql"))
    assert done.returncode != 0
    assert programs.dump(story) == before
