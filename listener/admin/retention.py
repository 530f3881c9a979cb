"""Delete events: old ones by their age, or all of one row. Markers remain, so that `backfill` sees the rows as handled."""

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from listener.admin.inbox import take_over
from listener.db.errors import OWNER_REMEDY, translate_errors
from listener.db.queries import load

_QUERIES = load("admin")
# A batch is one transaction. It takes a fraction of a second, so that it never holds back vacuum or a worker.
MAX_BATCH_ROWS = 5000


def purge(conn: psycopg.Connection[Any], older_s: float, again_after: Mapping[str, float]) -> Iterator[int]:
    """Delete the events that were settled more than `older_s` seconds ago. Yield the number of each batch.

    `again_after` is in seconds, by the rules that have it. Their sent events are kept as long as that.
    """
    kept = {"rules": list(again_after), "again_after": list(again_after.values())}
    after: int | None = 0
    with translate_errors(OWNER_REMEDY):
        while after is not None:
            values = {"after": after, "older": older_s, "batch": MAX_BATCH_ROWS, **kept}
            count, after = conn.execute(_QUERIES["purge"], values).fetchone() or (0, None)
            yield count


def forget(conn: psycopg.Connection[Any], rule: str, key: str, person: str | None = None) -> tuple[int, int]:
    """Delete a row's events, or those of one person of it. Return how many were deleted, and how many are in flight and were not.

    `key` is in the outbox's form, as `listener.admin.history.as_written` returns it.
    """
    with translate_errors(OWNER_REMEDY):
        take_over(conn, rule, key)
        values = {"rule": rule, "key": key, "person": person}
        deleted, in_flight = conn.execute(_QUERIES["forget"], values).fetchone() or (0, 0)
    return deleted, in_flight
