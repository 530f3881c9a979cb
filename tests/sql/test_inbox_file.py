"""The inbox's file is given back while it is empty. No writer ever waits for that, and no change is lost by it."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.support.claimant import Claimant
from tests.support.database import Database, install_triggers
from tests.support.inbox import MANY, add_changes, changes, events_of, file_size

Register = Callable[..., Claimant]
PROMPT = "SET lock_timeout = '5s'; SET statement_timeout = '20s'"


@pytest.fixture
def emptied(sandbox: Database) -> Iterator[Database]:
    """A large file without a row."""
    sandbox.execute("ALTER TABLE pgherald.inbox SET (autovacuum_enabled = off)")
    add_changes(sandbox, MANY)
    sandbox.execute("DELETE FROM pgherald.inbox")
    assert file_size(sandbox) > 2**20
    yield sandbox
    sandbox.execute("ALTER TABLE pgherald.inbox RESET (autovacuum_enabled)")


def shrunk(database: Database, conn: psycopg.Connection[Any] | None = None) -> bool:
    """Return what shrink_inbox() returns. It fails if it waits for a lock. It would take a lock_timeout as an answer."""
    conn = conn or database.connect(options="-c statement_timeout=5s")
    [(done,)] = conn.execute("SELECT pgherald.shrink_inbox()")
    return bool(done)


def capture(conn: psycopg.Connection[Any], plan: int) -> None:
    conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))


def test_a_large_empty_file_is_given_back(emptied: Database) -> None:
    assert shrunk(emptied)
    assert file_size(emptied) == 0
    assert not shrunk(emptied)


def test_a_small_one_stays(sandbox: Database) -> None:
    """Truncating takes longer than reading a few pages."""
    add_changes(sandbox, 1000)
    sandbox.execute("DELETE FROM pgherald.inbox")
    before = file_size(sandbox)
    assert 0 < before < 2**20
    assert not shrunk(sandbox)
    assert file_size(sandbox) == before


def test_one_with_a_change_stays(emptied: Database) -> None:
    add_changes(emptied, 1)
    assert not shrunk(emptied)
    assert changes(emptied) == 1
    assert file_size(emptied) > 2**20


def test_it_waits_for_no_writer_and_no_writer_waits_for_it(emptied: Database) -> None:
    plans = [emptied.add_plan("Café", f"{number}@example.org") for number in range(2)]
    writer, other = emptied.connect(), emptied.connect()
    other.execute(PROMPT)
    with writer.transaction():
        capture(writer, plans[0])
        assert not shrunk(emptied)
        # A lock that was waited for would be in front of this one.
        capture(other, plans[1])
    assert changes(emptied) == 2
    assert file_size(emptied) > 2**20


@pytest.mark.parametrize("end", ["COMMIT PREPARED 'inbox'", "ROLLBACK PREPARED 'inbox'"])
def test_a_prepared_transaction_is_a_writer_too(emptied: Database, end: str) -> None:
    plan, writer = emptied.add_plan("Café", "a@example.org"), emptied.connect()
    writer.execute("BEGIN")
    capture(writer, plan)
    writer.execute("PREPARE TRANSACTION 'inbox'")
    try:
        assert not shrunk(emptied)
    finally:
        writer.execute(end)  # type: ignore[call-overload]
    assert changes(emptied) == (1 if end.startswith("COMMIT") else 0)
    assert shrunk(emptied) is not end.startswith("COMMIT")


def test_what_is_captured_before_the_lock_is_not_lost_at_any_isolation_level(emptied: Database) -> None:
    """With a snapshot of before that commit the inbox looks empty, and TRUNCATE would remove the change."""
    keeper, plan = emptied.connect(), emptied.add_plan("Café", "a@example.org")
    with keeper.transaction():
        keeper.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        keeper.execute("SELECT count(*) FROM public.dateplan")
        emptied.verify(plan)
        assert not shrunk(emptied, keeper)
    assert changes(emptied) == 1


def test_a_reader_with_an_older_snapshot_keeps_what_it_has_read(emptied: Database) -> None:
    reader = emptied.connect()
    with reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM pgherald.inbox")
        assert not shrunk(emptied)
    assert shrunk(emptied)


def test_a_reader_that_has_not_come_to_the_inbox_hides_no_event_from_others(
    sandbox: Database, claimant: Register
) -> None:
    add_changes(sandbox, MANY)
    reader, worker = sandbox.connect(), claimant()
    with reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM public.dateplan")
        assert len(worker.claim(MANY)) == MANY
        assert shrunk(sandbox)
    assert len(events_of(worker.conn)) == MANY


def test_vacuum_does_not_truncate(emptied: Database) -> None:
    """It would take ACCESS EXCLUSIVE for that, and writers would wait."""
    before = file_size(emptied)
    emptied.execute("VACUUM pgherald.inbox")
    assert file_size(emptied) == before
    # The pages are used again.
    add_changes(emptied, MANY)
    assert file_size(emptied) == before


def test_installing_again_waits_for_no_writer(sandbox: Database) -> None:
    """ALTER TABLE would wait for every transaction that has captured, and all further captures behind it."""
    plan, writer = sandbox.add_plan("Café", "a@example.org"), sandbox.connect()
    with writer.transaction():
        capture(writer, plan)
        installer = sandbox.connect()
        installer.execute(PROMPT)
        install_triggers(installer)
