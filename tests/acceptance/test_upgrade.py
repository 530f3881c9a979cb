"""The upgrade, rehearsed with a made-up next version: daemons are replaced one by one, and nothing is lost or doubled.

No version has been released, so no older one exists. The next version is this tree's package with a higher schema version
and one more column and one more index in the outbox.
"""

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.db import schema_version
from listener.db.schema_version import VERSION
from listener.resources import resource
from tests.fixtures.programs import Programs
from tests.sql.test_schema_shape import ROWS, insert
from tests.support import wait_until
from tests.support.command import Daemon, Pgherald
from tests.support.database import STORY, Database, Databases
from tests.support.mail import MailServer
from tests.support.smtpd import wait
from tests.support.web import ANY_PORT, Client

NEXT = VERSION + 1
RULE = "dateplan_verified"
UPDATE = "update this pgherald to the release that installed the schema"
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


class OtherRelease(Pgherald):
    """The command of another release. PYTHONPATH names its folder."""

    @staticmethod
    def _command(arguments: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "listener", *map(str, arguments)]


Release = Callable[..., OtherRelease]


def replaced(path: Path, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> None:
    """Replace the one place in the file that matches. A missed place would make a release with two versions."""
    text, times = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert times == 1, f"{path.name}: {pattern} matches {times} times"
    path.write_text(text, encoding="utf-8")


def make_release(site: Path, version: int, usable_from: int) -> None:
    """Write this tree's package as a wheel has it, with another schema version and one more column."""
    package = site / "listener"
    shutil.copytree(resource(""), package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("sql", "templates"):
        shutil.copytree(resource(folder), package / folder, dirs_exist_ok=True)
    code = package / Path(schema_version.__file__).relative_to(resource(""))
    replaced(code, rf"^VERSION = {VERSION}$", f"VERSION = {version}")
    triggers = package / "sql/triggers.sql"
    replaced(triggers, rf"^(    this_version CONSTANT pg_catalog\.int4 := ){VERSION};", rf"\g<1>{version};")
    replaced(triggers, r"^(    usable_from  CONSTANT pg_catalog\.int4 := )\d+;", rf"\g<1>{usable_from};")
    # Another body of a function, which the doctor of this release must not call a fault.
    replaced(triggers, r"^    DELETE FROM pgherald\.handled .* = unwatch\.rule;$", r"\g<0>\n    -- Of another release.")
    # A new installation gets the column with the table. An existing table gets it afterwards.
    replaced(triggers, r"^    CONSTRAINT outbox_pkey PRIMARY KEY", r"    of_next_version text,\n\g<0>")
    replaced(
        triggers,
        r"^        \('outbox_failed_idx', .*$",
        r"\g<0>\n        ('outbox_next_idx', $index$ (of_next_version) WHERE state <> 'available' $index$),",
    )
    replaced(
        triggers,
        r"^CREATE TABLE IF NOT EXISTS pgherald\.outbox \((?:.*\n)+?.*;\n",
        lambda found: found[0] + NEW_COLUMN,
    )


@pytest.fixture
def release(pgherald: Pgherald, tmp_path: Path) -> Release:
    """``release(version, usable_from=…)`` makes a release of that schema version and returns its command."""

    def make(version: int, *, usable_from: int) -> OtherRelease:
        site = tmp_path / f"release {version} {usable_from}"
        make_release(site, version, usable_from)
        return OtherRelease({**pgherald.settings, "PYTHONPATH": str(site)}, tmp_path)

    return make


@pytest.fixture
def next_version(release: Release) -> OtherRelease:
    """The next release, with a schema that daemons of this release can use."""
    return release(NEXT, usable_from=VERSION)


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
    next_version: OtherRelease,
    programs: Programs,
    roles: None,
) -> None:
    story.add_plan("Bar", "john@example.org", status="VE")
    pgherald("install", "--create-roles", check=True)
    assert versions(story) == (VERSION, VERSION)
    plant_every_state(story, RULE)
    before = story.events(), *contents(story)
    files = set(story.execute(TABLES))
    next_version("install", "--create-roles", check=True)
    assert versions(story) == (NEXT, VERSION)
    events = story.events()
    assert [event.pop("of_next_version") for event in events] == [None] * len(ROWS)
    assert (events, *contents(story)) == before
    upgraded = set(story.execute(TABLES))
    assert files < upgraded
    assert [name for name, _ in upgraded - files] == ["outbox_next_idx"]
    next_version("install", "--create-roles", check=True)
    assert set(story.execute(TABLES)) == upgraded
    with databases.fresh() as other:
        other.execute(STORY)
        next_version("install", "--create-roles", env={"PGHERALD_DATABASE_URL": other.url}, check=True)
        assert programs.dump(story) == programs.dump(other), "upgraded is as new"


def versions(database: Database) -> tuple[int, int]:
    """Return the schema's version, and the oldest version whose daemons can use it."""
    [(version, usable_from)] = database.execute("SELECT pgherald.version(), pgherald.usable_from()")
    return version, usable_from


def contents(database: Database) -> list[list[tuple[object, ...]]]:
    """Return the rows that an upgrade must not change, beside the events."""
    return [database.execute(f"SELECT * FROM pgherald.{name}") for name in ("rule", "handled", "secret", "rate_limit")]  # type: ignore[arg-type]


class Load:
    """An application that brings rows to the watched value, several in each transaction, until it is stopped."""

    BATCH = 5
    PAUSE_S = 0.2

    def __init__(self, database: Database) -> None:
        self.plans: list[int] = []
        self._database = database
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="load")
        self._error: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator["Load"]:
        self._thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Commit the last batch. Raise the error that a write has met."""
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_written(self, more: int = 20) -> None:
        """Wait until so many more rows have reached the value, and all rows before them have been sent."""
        reached = len(self.plans) + more
        wait_until(lambda: len(self.plans) >= reached)
        wait_until(lambda: sent_count(self._database) >= reached)

    def _write(self) -> None:
        numbers = count()
        writer = Database(self._database.url)
        try:
            while not self._stopping.wait(self.PAUSE_S):
                plans = [writer.add_plan("Café", f"{next(numbers)}@example.org") for _ in range(self.BATCH)]
                writer.verify(*plans)
                self.plans += plans
        except BaseException as exc:
            self._error = exc
        finally:
            writer.close()


def sent_count(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM pgherald.outbox WHERE rule = %s AND state = 'sent'", (RULE,)))


def sent_by(daemon: Daemon) -> list[int]:
    """Return the keys of the events that this daemon has sent, by its log."""
    return [int(event["key"]) for event in list(daemon.events) if event.get("event") == "event_sent"]


def wait_sends(daemon: Daemon, more: int = 20) -> None:
    """Wait until this daemon has sent so many more emails."""
    reached = len(sent_by(daemon)) + more
    wait_until(lambda: len(sent_by(daemon)) >= reached)


@pytest.mark.slow
def test_daemons_are_replaced_one_by_one_under_load(
    story: Database, mail: MailServer, pgherald: Pgherald, next_version: OtherRelease
) -> None:
    """The old daemons run during `install`, an old one is restarted after it, and new ones replace them."""
    pgherald("install", check=True)
    plant_every_state(story, "another_rule")
    others = story.execute("SELECT id, key FROM pgherald.outbox ORDER BY id")
    # With slow replies, a daemon that stops has messages in flight. It must wait for their outcome.
    mail.script("dot", wait(0.1))
    load = Load(story)
    with pgherald.daemon() as first, pgherald.daemon() as second, load.running():
        load.wait_written()
        next_version("install", check=True)
        assert versions(story) == (NEXT, VERSION)
        # The running daemons continue on the next schema.
        load.wait_written()
        assert first.stop() == 0
        with pgherald.daemon() as restarted:
            restarted.wait_event("schema_newer", schema_version=NEXT, made_for=VERSION)
            # Without the second daemon, the restarted one must send everything.
            assert second.stop() == 0
            wait_sends(restarted)
            with next_version.daemon() as third:
                assert restarted.stop() == 0
                wait_sends(third)
                with next_version.daemon() as fourth:
                    assert third.stop() == 0
                    wait_sends(fourth)
                    load.stop()
                    wait_until(lambda: sent_count(story) == len(load.plans))
    daemons = [first, second, restarted, third, fourth]
    # Each daemon has ended, so its log is complete. Exactly one daemon has sent each event, and once.
    assert sorted(key for daemon in daemons for key in sent_by(daemon)) == sorted(load.plans)
    assert sorted(mail.recipients) == sorted(f"{number}@example.org" for number in range(len(load.plans)))
    assert story.execute("SELECT DISTINCT state FROM pgherald.outbox WHERE rule = %s", (RULE,)) == [("sent",)]
    assert story.execute("SELECT id, key FROM pgherald.outbox WHERE rule = 'another_rule' ORDER BY id") == others
    # Only a daemon that is older than the schema says so, and once.
    logged = [[event["event"] for event in daemon.events].count("schema_newer") for daemon in daemons]
    assert logged == [0, 0, 1, 0, 0]


COMMANDS = (
    ["run"],
    ["run", "--once"],
    ["status", "--json"],
    ["events", "list"],
    ["events", "retry", RULE, "--yes"],
    ["pause", RULE],
    ["resume", RULE],
    ["backfill", RULE, "--dry-run"],
    ["purge", "--older-than", "30d"],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "usable_from", "problem"),
    [
        pytest.param(
            NEXT,
            NEXT,
            f"version {NEXT} is installed, which only a pgherald made for version {NEXT} or later can use "
            f"(this one is made for version {VERSION})",
            id="the next version says so",
        ),
        pytest.param(
            VERSION + 2,
            VERSION,
            f"version {VERSION + 2} is installed, but this pgherald can use only versions {VERSION} and {NEXT}",
            id="two versions ahead",
        ),
    ],
)
def test_a_newer_schema_that_this_version_cannot_use(
    story: Database, pgherald: Pgherald, release: Release, version: int, usable_from: int, problem: str
) -> None:
    """The daemon ends at once with exit status 1, and commands read and change nothing."""
    pgherald("install", check=True)
    newer = release(version, usable_from=usable_from)
    newer("install", check=True)
    assert versions(story) == (version, usable_from)
    plan = story.add_plan("Café", "a@example.org")
    story.verify(plan)
    for command in (*COMMANDS, ["explain", RULE, plan], ["forget", RULE, plan]):
        refused = pgherald(*command)
        assert refused.returncode == 1, command
        # One line and nothing else: the daemon has not tried again.
        assert refused.stderr.splitlines() == [f"Error: schema pgherald: {problem}; {UPDATE}"], command
        assert refused.stdout == ""
    assert [event["state"] for event in story.events()] == ["available"]
    found = schema_check(pgherald)
    assert (found["state"], found["seen"], found["remedy"]) == ("fault", problem, UPDATE)
    newer("run", "--once", check=True)
    assert [event["state"] for event in story.events()] == ["sent"]


@pytest.mark.slow
def test_commands_use_the_next_schema(story: Database, pgherald: Pgherald, next_version: OtherRelease) -> None:
    pgherald("install", check=True)
    next_version("install", check=True)
    plan = story.add_plan("Café", "a@example.org")
    story.verify(plan)
    for command in (*COMMANDS[1:], ["explain", RULE, plan], ["forget", RULE, plan]):
        pgherald(*command, check=True)
    found = schema_check(pgherald)
    words = f"version {NEXT}, newer than version {VERSION} of this pgherald, which can use it"
    assert (found["state"], found["seen"], found["remedy"]) == ("ok", words, "")


def schema_check(pgherald: Pgherald) -> dict[str, str]:
    """Return the result of doctor's check of the schema. Its functions must not be compared with those of another version."""
    results = {result["check"]: result for result in json.loads(pgherald("doctor", "--json").stdout)}
    assert results["functions"]["state"] == "ok" or results["functions"]["seen"].startswith("not checked: ")
    found: dict[str, str] = results["schema"]
    return found


@pytest.mark.slow
def test_readiness_follows_the_schema(story: Database, pgherald: Pgherald, next_version: OtherRelease) -> None:
    """A running daemon stays ready on the next schema, and is not ready on one that it cannot use."""
    pgherald("install", check=True)
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)

        def schema_part() -> dict[str, object]:
            part: dict[str, object] = client.get("/readyz").json()["parts"]["schema"]
            return part

        wait_until(lambda: schema_part()["detail"] == f"version {VERSION}; triggers of 1 rules installed")
        next_version("install", check=True)
        wait_until(lambda: f"version {NEXT}, newer than version {VERSION}" in str(schema_part()["detail"]))
        assert schema_part()["ok"]
        story.execute(returns("usable_from", NEXT))
        wait_until(lambda: not schema_part()["ok"])
        assert UPDATE in str(schema_part()["detail"])


def returns(function: str, number: int) -> sql.Composed:
    """Return SQL that replaces one of the two functions of the schema's version."""
    return sql.SQL("CREATE OR REPLACE FUNCTION pgherald.{}() RETURNS integer LANGUAGE sql IMMUTABLE RETURN {}").format(
        sql.Identifier(function), number
    )


@pytest.mark.slow
def test_an_older_schema_is_refused(database: Database, pgherald: Pgherald) -> None:
    """The same for every command: the queries need what only the newer schema has."""
    database.execute(returns("version", VERSION - 1))
    for command in COMMANDS:
        refused = pgherald(*command)
        assert refused.returncode == 1, command
        assert refused.stderr.splitlines() == [
            f"Error: schema pgherald: version {VERSION - 1} is installed, but this pgherald needs version {VERSION}; "
            "run `pgherald install`"
        ], command


def test_install_does_not_go_back(
    story: Database,
    programs: Programs,
    pgherald: Pgherald,
    next_version: OtherRelease,
) -> None:
    """The functions of the older file would silently replace the newer ones, also where old daemons may still run."""
    pgherald("install", check=True)
    next_version("install", check=True)
    before = programs.dump(story)
    refused = pgherald("install")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"Error: triggers.sql: the database has schema version {NEXT}, newer than this file's {VERSION}; "
        "run `pgherald install` of the newer release"
    ]
    done = programs.psql(story, "-v", "ON_ERROR_STOP=1", "-f", resource("sql/triggers.sql"))
    assert done.returncode != 0
    assert programs.dump(story) == before
