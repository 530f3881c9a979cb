"""Rows that the triggers missed get one event each, page by page."""

from itertools import chain
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener.admin import backfill
from listener.admin.backfill import Options, walk
from listener.config.rules import default_rules
from listener.errors import SchemaError
from tests.support.database import Database

[(NAME, RULE)] = default_rules().items()


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    plans = [database.add_plan("Café", f"missed{number}@example.org") for number in range(5)]
    conn = database.connect()
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = ANY (%s)", (plans,))
    return conn


def missed(conn: psycopg.Connection[Any], **options: Any) -> list[list[str]]:
    return [page.missed for page in walk(conn, NAME, RULE, Options(**options))]


def test_each_row_is_captured_once(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "MAX_PAGE_ROWS", 2)
    assert missed(conn, dry_run=True) == [["1", "2"], ["3", "4"], ["5"]]
    assert missed(conn, limit=3) == [["1", "2"], ["3"]]
    assert [*chain(*missed(conn))] == ["4", "5"]
    assert [*chain(*missed(conn))] == []
    assert conn.execute("SELECT count(*), count(DISTINCT key) FROM pgherald.outbox").fetchone() == (5, 5)


def test_rows_can_be_marked_as_handled_instead(conn: psycopg.Connection[Any]) -> None:
    assert missed(conn, mark_only=True) == [["1", "2", "3", "4", "5"]]
    assert missed(conn) == [[]]
    assert conn.execute("SELECT count(*) FROM pgherald.outbox").fetchone() == (0,)


def test_one_backfill_of_a_rule_at_a_time(conn: psycopg.Connection[Any], database: Database) -> None:
    other = database.connect()
    running = walk(other, NAME, RULE, Options())
    next(running)
    with pytest.raises(SchemaError, match=rf"holds the lock of its backfill: pid {other.info.backend_pid} .*; wait"):
        missed(conn)
    with pytest.raises(SchemaError, match="rule none is not watched"):
        list(walk(conn, "none", RULE, Options()))


def test_a_page_finds_the_rows_events_by_their_index(conn: psycopg.Connection[Any]) -> None:
    """With another collation than the index has, each page would read the whole outbox."""
    conn.execute("SET enable_seqscan = off")
    values = {"rule": NAME, "keys": [b"1"], "changed": [None], "most": 1}
    query = sql.SQL("EXPLAIN {}").format(backfill._capture(Options()))
    plan = "\n".join(line for (line,) in psycopg.ClientCursor(conn).execute(query, values))
    assert "outbox_key_idx" in plan


def test_a_row_whose_event_waits_was_not_missed(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "INSERT INTO pgherald.inbox (rule, key, captured_at, captured_xid) VALUES (%s, '2', now(), '1')", (NAME,)
    )
    conn.execute("INSERT INTO pgherald.inbox (rule, key, captured_at, captured_xid) VALUES ('other', '3', now(), '1')")
    conn.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, '4'), ('other', '5')", (NAME,))
    assert missed(conn, dry_run=True) == missed(conn) == [["1", "3", "5"]]
