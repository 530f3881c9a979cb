"""Events for rows that the triggers missed: rows that have the watched value and no event."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db.errors import OWNER_REMEDY, translate_errors
from listener.db.locks import BACKFILL_SPACE, GATE, AdvisoryLock
from listener.db.queries import load
from listener.errors import SchemaError
from listener.printable import excerpt

_QUERIES = load("admin")
# Rows per transaction. It bounds the time that a transaction takes, and the memory for the keys.
MAX_PAGE_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command.

    Attributes:
        since: Only rows that changed at this time or later, by the rule's `changed_at` column.
        until: Only rows that changed before this time.
        limit: At most so many rows.
        rate: At most so many rows per second.
        dry_run: Only report the rows.
        mark_only: Remember the rows as handled; send nothing.
        include_existing: Include rows that had the value before the rule was watched.
    """

    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    rate: float | None = None
    dry_run: bool = False
    mark_only: bool = False
    include_existing: bool = False


@dataclass(frozen=True, slots=True)
class BackfillPage:
    """The result for one page of the table.

    Attributes:
        looked_at: Number of rows on the page.
        missed: Keys of the rows that had no event, escaped for display.
        oldest: The oldest change among these, if the rule has a `changed_at` column.
    """

    looked_at: int
    missed: list[str]
    oldest: datetime | None


def walk(conn: psycopg.Connection[Any], name: str, rule: Rule, options: Options) -> Iterator[BackfillPage]:
    """Go through the table in the order of its key, a page at a time, and create an event for each missed row.

    It can be interrupted and started again at any time, because each captured row then has its event. Only one backfill
    of a rule runs at a time.

    Raises:
        SchemaError: The rule is not watched, `install` has not finished with its table, or another backfill runs.
        DatabaseUnavailable: The server or the network failed.
    """
    with translate_errors(OWNER_REMEDY):
        found = conn.execute(_QUERIES["snapshot_done"], {"rule": name}).fetchone()
        if found is None:
            raise SchemaError(f"rule {name} is not watched in this database; run `pgherald install`")
        if found != (True,):
            raise SchemaError(f"rule {name}: its existing rows are not recorded yet; run `pgherald install`")
        if not options.dry_run:
            _lock(conn, name)
        query = _capture(options)
        after: list[bytes] | None = None
        left = options.limit
        while left is None or left > 0:
            begun = time.monotonic()
            # With a rate, a page captures no more than a second's worth, so that the events come evenly.
            most = min(x for x in (left, options.rate and max(1, int(options.rate)), MAX_PAGE_ROWS) if x is not None)
            rows = _read(conn, name, rule, options, after)
            values = {"rule": name, "keys": [key for key, _, _ in rows], "changed": [at for _, _, at in rows]}
            row = conn.execute(query, {**values, "most": most}).fetchone()
            assert row is not None
            missed, oldest, last = row
            yield BackfillPage(len(rows), missed, oldest)
            if left is not None:
                left -= len(missed)
            if len(missed) == most:
                after = rows[last - 1][1]
            elif len(rows) == MAX_PAGE_ROWS:
                after = rows[-1][1]
            else:
                return
            if options.rate and not options.dry_run:
                time.sleep(max(0.0, len(missed) / options.rate - (time.monotonic() - begun)))


def _read(
    conn: psycopg.Connection[Any], name: str, rule: Rule, options: Options, after: list[bytes] | None
) -> list[tuple[bytes, list[bytes], str | None]]:
    """Return the next page of rows that have the value: the key, its columns, and the time of the change.

    The query runs with the rights of the table's owner if this role may use them. The transaction is rolled back, as
    `pgherald.page_reader` requires. Keys are transferred as bytes, because a key that is not valid UTF-8 must not end
    the walk.
    """
    with conn.transaction(force_rollback=True):
        (query,) = conn.execute("SELECT pgherald.page_reader(%s, %s)", (name, rule.changed_at or None)).fetchone() or (
            "",
        )
        query = f"SELECT convert_to(key, getdatabaseencoding()), at, changed FROM ({query}) AS page"  # noqa: S608 - ours
        values = (after, MAX_PAGE_ROWS, options.since, options.until)
        return psycopg.RawCursor(conn).execute(query, values, prepare=False).fetchall()


def _lock(conn: psycopg.Connection[Any], name: str) -> None:
    """Take the lock of the rule's backfill for this session."""
    granted, number = conn.execute(_QUERIES["lock_backfill"], {"rule": name}).fetchone() or (False, 0)
    if not granted:
        row = conn.execute(_QUERIES["lock_holder"], AdvisoryLock(BACKFILL_SPACE, number)._asdict()).fetchone()
        holder = f": pid {row[0]} (user {excerpt(row[1])}, application {excerpt(row[2])})" if row else ""
        raise SchemaError(
            f"rule {name}: another session holds the lock of its backfill{holder}; wait for its end, "
            f"or end it: SELECT pg_terminate_backend({row[0] if row else 'PID'})"
        )


def _capture(options: Options) -> sql.Composed:
    """Return the statement that finds the missed rows of a page and creates their events."""
    # If the time of the change is known, an event from before it does not count. The row then left the value and
    # returned while capture was off. Without that time, any event of the row counts.
    event_covers = sql.SQL("AND (o.captured_at < page.changed) IS NOT TRUE")
    handled_covers = sql.SQL(
        "AND (h.at < page.changed) IS NOT TRUE" + (" AND h.why <> 'existing'" if options.include_existing else "")
    )
    ring: sql.Composable = sql.SQL("SELECT 1")
    if options.dry_run:
        write = sql.SQL("SELECT 1")
    elif options.mark_only:
        write = sql.SQL(
            "INSERT INTO pgherald.handled (rule, key, why) "
            "SELECT %(rule)s, pgherald.handled_key(key), 'marked' FROM missed "
            "ON CONFLICT (rule, key) DO UPDATE SET why = 'marked', at = now() RETURNING 1"
        )
    else:
        write = sql.SQL(
            "INSERT INTO pgherald.outbox (rule, key, history) "
            "SELECT %(rule)s, key, pgherald.append_history('[]', 'backfilled', NULL) FROM missed RETURNING 1"
        )
        # As a capture does: NOTIFY only if the gate is closed. A daemon that is awake finds the events by itself.
        ring = sql.SQL(
            "SELECT CASE WHEN EXISTS (SELECT FROM written) AND NOT pg_try_advisory_xact_lock_shared({}, {}) "
            "THEN pg_notify('pgherald', '') END"
        ).format(*GATE)
    # The name of the encoding has the collation "C", and convert_from() passes it on. The index on the key has another.
    return sql.SQL("""
        WITH page AS MATERIALIZED (
            SELECT key, max(changed) AS changed, min(number) AS number
              FROM (SELECT convert_from(key, getdatabaseencoding()) COLLATE "default" AS key,
                           changed::timestamptz AS changed,
                           number
                      FROM unnest(%(keys)s::bytea[], %(changed)s::text[]) WITH ORDINALITY AS page (key, changed, number)
                     UNION ALL
                    SELECT i.key, NULL, NULL FROM pgherald.inbox AS i WHERE i.rule = %(rule)s
                     UNION ALL
                    SELECT o.key, NULL, NULL
                      FROM pgherald.outbox AS o
                     WHERE o.rule = %(rule)s AND o.state = 'available') AS found
             GROUP BY key
            HAVING count(*) = count(number)),
        missed AS MATERIALIZED (
            SELECT key, changed, number FROM page
             WHERE NOT EXISTS (SELECT FROM pgherald.outbox AS o
                                WHERE o.rule = %(rule)s AND o.key = page.key AND o.state <> 'available' {event_covers})
               AND NOT EXISTS (SELECT FROM pgherald.handled AS h
                                WHERE h.rule = %(rule)s AND h.key = pgherald.handled_key(page.key) {handled_covers})
             ORDER BY number LIMIT %(most)s),
        written AS ({write}),
        rung AS ({ring})
        SELECT (SELECT coalesce(array_agg(pgherald.shown(key) ORDER BY number), '{{}}') FROM missed),
               (SELECT min(changed) FROM missed),
               (SELECT max(number) FROM missed)
          FROM rung""").format(event_covers=event_covers, handled_covers=handled_covers, write=write, ring=ring)
