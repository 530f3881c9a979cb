"""An upgrade to a made-up next version: both daemons keep running, and no event is lost or sent twice.

No version has been released, so there is no older one to come from. The next one is this tree's package with a higher
version and one column more in the outbox.
"""

import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.db import schema
from listener.db.schema_version import VERSION
from listener.resources import resource
from tests.fixtures.programs import Programs
from tests.sql.test_schema_shape import ROWS, insert
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, Databases
from tests.support.mail import MailServer

NEXT = VERSION + 1
TABLES: LiteralString = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace AND relkind IN ('r', 'i', 'S')"
# As the file changes a table that is there: ALTER TABLE waits for everybody, so it looks first.
NEW_COLUMN = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                    WHERE attrelid = 'pgherald.outbox'::regclass AND attname = 'of_next_version') THEN
        ALTER TABLE pgherald.outbox ADD COLUMN of_next_version text;
    END IF;
END $$;
"""


class Next(Pgherald):
    """The command of the next version, from its folder in PYTHONPATH."""

    @staticmethod
    def _command(arguments: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "listener", *map(str, arguments)]


def replaced(path: Path, pattern: str, replacement: str | Callable[[re.Match[str]], str], times: int) -> None:
    """Replace in the file, so many times exactly: a place that is missed would be a version of two minds."""
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == times, f"{path.name}: {pattern} is there {count} times"
    path.write_text(text, encoding="utf-8")


def make_next_version(site: Path) -> None:
    """The package as a wheel lays it out, one version on."""
    package = site / "listener"
    shutil.copytree(resource(""), package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("sql", "templates"):
        shutil.copytree(resource(folder), package / folder, dirs_exist_ok=True)
    replaced(
        package / Path(schema.__file__).relative_to(resource("")), rf"^VERSION = {VERSION}$", f"VERSION = {NEXT}", 1
    )
    triggers = package / "sql/triggers.sql"
    replaced(
        triggers, rf"(pgherald\.version\(\) > |newer than this file''s |^    RETURN ){VERSION}\b", rf"\g<1>{NEXT}", 3
    )
    # In the table of a new installation, and after it for one that is there.
    replaced(triggers, r"^    CONSTRAINT outbox_pkey PRIMARY KEY", r"    of_next_version text,\n\g<0>", 1)
    replaced(
        triggers,
        r"^CREATE TABLE IF NOT EXISTS pgherald\.outbox \((?:.*\n)+?.*;\n",
        lambda found: found[0] + NEW_COLUMN,
        1,
    )


@pytest.fixture
def next_version(pgherald: Pgherald, tmp_path: Path) -> Next:
    site = tmp_path / "site"
    make_next_version(site)
    return Next({**pgherald.settings, "PYTHONPATH": str(site)}, tmp_path)


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
    pgherald: Pgherald,
    next_version: Next,
    programs: Programs,
    roles: None,
) -> None:
    story.add_plan("Bar", "john@example.org", status="VE")
    pgherald("install", "--create-roles", check=True)
    assert story.value("SELECT pgherald.version()") == VERSION
    plant_every_state(story, "dateplan_verified")
    before = story.events(), *contents(story)
    files = set(story.execute(TABLES))
    next_version("install", "--create-roles", check=True)
    assert story.value("SELECT pgherald.version()") == NEXT
    events = story.events()
    assert [event.pop("of_next_version") for event in events] == [None] * len(ROWS)
    assert (events, *contents(story)) == before
    assert set(story.execute(TABLES)) == files
    next_version("install", "--create-roles", check=True)
    assert set(story.execute(TABLES)) == files
    with databases.fresh() as other:
        other.execute(STORY)
        next_version("install", "--create-roles", env={"PGHERALD_DATABASE_URL": other.url}, check=True)
        assert programs.dump(story) == programs.dump(other), "upgraded is as new"


def contents(database: Database) -> list[list[tuple[object, ...]]]:
    """Return the rows that an upgrade must not change, beside the events."""
    return [database.execute(f"SELECT * FROM pgherald.{name}") for name in ("rule", "handled", "secret", "rate_limit")]  # type: ignore[arg-type]


def test_under_a_daemon_of_this_version_and_a_writer(
    story: Database, mail: MailServer, pgherald: Pgherald, next_version: Next
) -> None:
    pgherald("install", check=True)
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

    with pgherald.daemon() as before:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            more()
            next_version("install", check=True)
            assert story.value("SELECT pgherald.version()") == NEXT
            more()
            refused = pgherald("run", "--once")
            assert refused.returncode == 1
            assert f"version {NEXT}, newer than the {VERSION} this one knows; update the daemon" in refused.stderr
            with next_version.daemon() as after:
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


def test_install_does_not_go_back(story: Database, programs: Programs, pgherald: Pgherald) -> None:
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
