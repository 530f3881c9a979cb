"""`install` moves a sequence that is behind its table, and never moves one back."""

import threading
from typing import LiteralString

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database, install_triggers
from tests.support.inbox import changes
from tests.support.mail import MailServer

LAST: LiteralString = "SELECT last_value FROM pgherald.outbox_id_seq"
# As replication writes a row: with its id, and past the sequence.
COPIED: LiteralString = """
    INSERT INTO pgherald.outbox (id, rule, key, state, settled_at) OVERRIDING SYSTEM VALUE
    VALUES (%s, 'dateplan_verified', 'x', 'sent', now())"""

COPIED_FROM_1_TO_50: LiteralString = """
    INSERT INTO pgherald.outbox (id, rule, key, state, settled_at) OVERRIDING SYSTEM VALUE
    SELECT n, 'dateplan_verified', 'x', 'sent', now() FROM generate_series(1, 50) AS n"""


@pytest.mark.parametrize("gap", [1, 5000, 100_000, 100_001, 3_000_000_000])
def test_it_moves_to_the_greatest_id(database: Database, gap: int) -> None:
    plan = database.add_plan("Café", "jane@example.org")
    database.execute(COPIED, (gap,))
    install_triggers(database.connect())
    assert database.value(LAST) == gap
    database.verify(plan)
    assert [event["id"] for event in database.events()] == [gap, gap + 1]


def test_the_workers_sequence_too(database: Database) -> None:
    database.execute(
        "INSERT INTO pgherald.worker (id, name, version, lease) OVERRIDING SYSTEM VALUE VALUES (7, 'x', '1', '10 s')"
    )
    install_triggers(database.connect())
    assert database.value("SELECT last_value FROM pgherald.worker_id_seq") == 7


def test_it_stays_where_it_is_ahead(database: Database) -> None:
    """Ids of events that were purged, or rolled back, are not given again."""
    database.execute("SELECT setval('pgherald.outbox_id_seq', 50)")
    database.execute(COPIED, (9,))
    install_triggers(database.connect())
    assert database.value(LAST) == 50
    install_triggers(database.connect())
    assert database.value(LAST) == 50


def test_no_writer_waits_or_fails_afterwards(database: Database) -> None:
    """A writer's transaction is open meanwhile, and others go on."""
    plans = [database.add_plan("Café", f"{i}@example.org") for i in range(300)]
    database.execute("SELECT setval('pgherald.outbox_id_seq', 1000)")
    opened = database.connect()
    opened.execute("BEGIN")
    opened.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plans[0],))
    database.execute(COPIED, (1500,))
    failed: list[Exception] = []
    writer, mended = database.connect(options="-c lock_timeout=5s"), threading.Event()

    def write() -> None:
        for plan in plans[1:]:
            if mended.is_set():
                # No number that it takes from now on is in the table.
                try:
                    writer.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))
                except Exception as exc:
                    failed.append(exc)
            else:
                writer.execute("SELECT nextval('pgherald.outbox_id_seq')")

    thread = threading.Thread(target=write)
    thread.start()
    installer = database.connect(options="-c lock_timeout=5s")
    install_triggers(installer)
    mended.set()
    thread.join()
    opened.execute("COMMIT")
    assert failed == []
    last = plans[-1]
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (last,))
    database.verify(last)
    assert database.events()[-1]["id"] > 1500


@pytest.mark.parametrize("command", [["events", "list"], ["run", "--once"]], ids=" ".join)
def test_a_command_says_that_the_sequence_is_behind(database: Database, pgherald: Pgherald, command: list[str]) -> None:
    database.connect().execute(COPIED_FROM_1_TO_50)
    database.verify(database.add_plan("Café", "jane@example.org"))
    done = pgherald(*command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: the sequence of pgherald.outbox is behind: ")
    assert "run `pgherald install`" in done.stderr
    assert changes(database) == 1


def test_a_daemon_waits_until_it_is_moved(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """The application writes on, and its changes wait in the inbox."""
    database.connect().execute(COPIED_FROM_1_TO_50)
    with pgherald.daemon() as daemon:
        database.verify(database.add_plan("Café", "jane@example.org"))
        said = daemon.wait_event("database_unavailable")
        assert "run `pgherald install`" in str(said)
        assert changes(database) == 1
        pgherald("install", check=True)
        mail.wait_for(1)
    assert database.value(LAST) > 50
