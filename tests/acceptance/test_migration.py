"""A move to another server by logical replication, in the steps of docs/migrations.md."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from listener.demo.cluster import Cluster
from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, chosen_binaries
from tests.support.inbox import changes, events_of
from tests.support.mail import MailServer

# Each case starts two servers.
pytestmark = pytest.mark.slow
RULE = "dateplan_verified"
OPTIONS = {"fsync": "off", "wal_level": "logical"}
# The statements that set another server's sequences to the values of this one.
SEQUENCES = """
    SELECT pg_catalog.format('SELECT pg_catalog.setval(%%L, %%s)', pg_catalog.format('%%I.%%I', schemaname, sequencename), last_value)
      FROM pg_catalog.pg_sequences WHERE last_value IS NOT NULL AND schemaname <> ALL (%s)"""


@dataclass
class Move:
    """Two servers, and the command for each. Both know the same mail server."""

    old: Database
    new: Database
    clusters: tuple[Cluster, Cluster]
    at_old: Pgherald
    at_new: Pgherald

    def copy_schema(self, *options: str) -> None:
        """Restore the old database's schema, without rows, on the new server."""
        dump = self._run(self.clusters[0], "pg_dump", "--schema-only", *options, self.old.url)
        self._run(self.clusters[1], "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.new.url, input=dump)

    def publish(self, tables: str) -> None:
        self.old.execute(f"CREATE PUBLICATION moved FOR {tables}")

    def subscribe(self) -> None:
        """Create the subscription, and wait until the rows that exist are copied."""
        with self.new.connect() as conn:
            conn.execute(
                psycopg.sql.SQL("CREATE SUBSCRIPTION moved CONNECTION {} PUBLICATION moved").format(self.old.url)
            )
        wait_until(
            lambda: not self.new.value("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate NOT IN ('r', 's')")
        )

    def catch_up(self) -> None:
        """Wait until the new server has all that was written to the old one."""
        end = self.old.value("SELECT pg_current_wal_lsn()")
        wait_until(
            lambda: self.old.value(
                "SELECT bool_and(flush_lsn >= %s) FROM pg_stat_replication WHERE application_name = 'moved'", (end,)
            )
        )

    def copy_sequences(self, *left_out: str) -> None:
        for (statement,) in self.old.execute(SEQUENCES, (list(left_out),)):
            self.new.execute(statement)

    def unsubscribe(self) -> None:
        with self.new.connect() as conn:
            conn.execute("DROP SUBSCRIPTION moved")

    @staticmethod
    def _run(cluster: Cluster, program: str, *arguments: str, input: str = "") -> str:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [cluster.binaries / program, *arguments], env=outside, input=input, capture_output=True,
            encoding="utf-8", timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def move(mail: MailServer, tmp_path: Path) -> Iterator[Move]:
    with ExitStack() as stack:
        clusters = [stack.enter_context(Cluster(chosen_binaries(), OPTIONS)) for _ in range(2)]
        databases = []
        for cluster in clusters:
            database = Database(cluster.dsn())
            stack.callback(database.close)
            databases.append(database)
        old, new = databases
        old.execute(STORY)
        commands = [
            Pgherald(
                {
                    "PGHERALD_DATABASE_URL": database.url,
                    "PGHERALD_SMTP_URL": mail.url,
                    "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
                    "PGHERALD_LOG_FORMAT": "json",
                },
                tmp_path,
            )
            for database in databases
        ]
        yield Move(old, new, (clusters[0], clusters[1]), *commands)


def finding(command: Pgherald, check: str) -> str:
    """What doctor says of one check."""
    [line] = [line for line in command("doctor").stdout.splitlines() if f" {check}: " in line]
    return line


@pytest.mark.parametrize("step_left_out", [False, repeats(True)], ids=["all steps", "without install"])
def test_all_tables_with_ours(move: Move, mail: MailServer, step_left_out: bool) -> None:
    """Each email once, and no write fails. Without `install`, the changes wait in the inbox, and doctor says why."""
    move.at_old("install", check=True)
    plans = [move.old.add_plan("Café", f"{i}@example.org") for i in range(9)]
    with move.at_old.daemon():
        move.old.verify(*plans[:3])
        mail.wait_for(3)
        move.copy_schema()
        move.publish("ALL TABLES")
        move.subscribe()
        move.old.verify(plans[3])
        mail.wait_for(4)
    # Events that wait when the writes to the old server end.
    move.old.verify(plans[4], plans[5])
    move.catch_up()
    assert finding(move.at_new, "subscriptions").startswith("fault ")
    move.unsubscribe()
    # What the application's own tables need.
    move.copy_sequences("pgherald")
    assert [state for _, state in events_of(move.new.connect())] == ["sent"] * 4
    assert changes(move.new) == 2

    assert finding(move.at_new, "sequences").startswith("fault ")
    if step_left_out:
        move.new.verify(*plans[6:])
        done = move.at_new("run", "--once")
        assert (done.returncode, "run `pgherald install`" in done.stderr) == (1, True)
        assert (changes(move.new), len(mail.messages)) == (5, 4)
        return
    assert "run `pgherald install`" in finding(move.at_new, "sequences")
    move.at_new("install", check=True)
    assert finding(move.at_new, "sequences").startswith("ok ")
    assert "fault" not in move.at_new("doctor").stdout
    for plan in plans[6:]:
        move.new.verify(plan)
    with move.at_new.daemon():
        mail.wait_for(9)
        wait_until(lambda: {event["state"] for event in move.new.events()} == {"sent"})
    assert sorted(mail.recipients) == [f"{i}@example.org" for i in range(9)]
    assert "0 rows would be captured" in move.at_new("backfill", RULE, "--dry-run", check=True).stdout


def test_the_applications_tables_alone(move: Move, mail: MailServer) -> None:
    """The old daemon sends what waits there. `install` on the new server records the rows, and capture begins."""
    move.at_old("install", check=True)
    plans = [move.old.add_plan("Café", f"{i}@example.org") for i in range(4)]
    move.old.verify(plans[0])
    move.publish("TABLES IN SCHEMA public")
    move.new.execute(STORY)
    move.subscribe()
    move.old.verify(plans[1])
    move.at_old("run", "--once", check=True)
    move.catch_up()
    move.unsubscribe()
    move.copy_sequences("pgherald")
    move.at_new("install", check=True)
    secret = move.old.value("SELECT value FROM pgherald.secret")
    move.new.execute("UPDATE pgherald.secret SET value = %s", (secret,))
    move.new.verify(plans[2])
    move.at_new("run", "--once", check=True)
    assert sorted(mail.recipients) == [f"{i}@example.org" for i in range(3)]
    assert "0 rows would be captured" in move.at_new("backfill", RULE, "--dry-run", check=True).stdout


def test_a_subscriber_without_our_schema(move: Move, mail: MailServer) -> None:
    """A publication of all tables includes ours from the day of the install. A subscriber without them stops."""
    move.new.execute(STORY)
    move.publish("ALL TABLES")
    move.subscribe()
    said = move.at_old("install", check=True).stderr
    assert "publication moved: it includes the tables of schema pgherald" in said
    plan = move.old.add_plan("Café", "jane@example.org")
    move.old.verify(plan)
    # The published take-over deletes a row of the inbox, which has no key.
    move.at_old("run", "--once", check=True)
    assert mail.recipients == ["jane@example.org"]
    log = move.clusters[1].log
    wait_until(lambda: 'logical replication target relation "pgherald.' in log.read_text(errors="replace"))
    assert move.new.value("SELECT count(*) FROM public.dateplan WHERE status = 'VE'") == 0
    move.at_new("install", check=True)
    wait_until(lambda: move.new.value("SELECT count(*) FROM public.dateplan WHERE status = 'VE'") == 1)
    # The apply worker fires no trigger, and tables that the subscription does not know get no rows.
    assert move.new.events() == []
