"""Changes that were captured and not taken over yet."""

from collections import Counter
from typing import Any

import psycopg

from tests.support import PATIENCE, wait_until
from tests.support.backlog import RULE
from tests.support.database import Database

# A thousand changes take about 80 KB. This many take more than 1 MB, from which on an empty inbox is truncated.
MANY = 20_000
# Whether a daemon sleeps until a capture rings.
GATE_CLOSED = """
    SELECT count(*) > 0 FROM pg_locks
     WHERE locktype = 'advisory' AND (classid, objid) = (726354, 1) AND granted AND mode = 'ExclusiveLock'
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


def add_changes(database: Database, count: int, rule: str = RULE, *, first: int = 1) -> None:
    """Write as many changes as a capture would, with the keys from `first` on."""
    database.execute(
        """INSERT INTO pgherald.inbox
           SELECT %s, n::text, clock_timestamp(), pg_current_xact_id() FROM generate_series(%s::integer, %s::integer) AS n""",
        (rule, first, first + count - 1),
    )


def changes(database: Database) -> int:
    """Count the changes in the inbox. It takes none over."""
    return int(database.value("SELECT count(*) FROM pgherald.inbox"))


def events_of(conn: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """Return the key and the state of each event in the outbox, as this session sees them. It takes no change over."""
    return conn.execute("SELECT key, state FROM pgherald.outbox ORDER BY id").fetchall()


def wait_delivered(conn: psycopg.Connection[Any], number: int, timeout: float = PATIENCE) -> None:
    """Wait until the daemons have taken all over and sent them."""
    inbox = "SELECT count(*) FROM pgherald.inbox"
    wait_until(
        lambda: (
            Counter(state for _, state in events_of(conn)) == {"sent": number}
            and conn.execute(inbox).fetchone() == (0,)
        ),
        timeout,
    )


def file_size(database: Database) -> int:
    """Return the bytes of the inbox's file."""
    return int(database.value("SELECT pg_relation_size('pgherald.inbox')"))
