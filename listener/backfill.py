"""What the triggers missed: rows in the watched value without an event, found by their key and captured after the fact."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from listener.database import OWNERS, quoted, translated, verbatim
from listener.errors import SchemaError
from listener.queries import load
from listener.rules import Rule

_QUERIES = load("admin")
PAGE = 5000


@dataclass(frozen=True, slots=True)
class Options:
    """`since`, `until`: by the rule's `changed_at`. `mark_only`: remember the rows as handled, send nothing."""

    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    rate: float | None = None
    dry_run: bool = False
    mark_only: bool = False
    include_existing: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One step of the walk: rows looked at, keys found missed, and the oldest change among those."""

    looked_at: int
    missed: list[str]
    oldest: datetime | None


def walk(conn: psycopg.Connection[Any], name: str, rule: Rule, options: Options) -> Iterator[Page]:
    """Go through the table in the order of its key, a transaction a page, and capture what was missed.

    May be stopped and begun anew at any time: what it has captured has its event. One at a time does it for a rule.

    Raises:
        SchemaError: the rule is not watched, its rows from before are not remembered yet, or another backfill is at it.
    """
    with translated(OWNERS):
        found = conn.execute(_QUERIES["table_of"], {"rule": name}).fetchone()
        if found is None:
            raise SchemaError(f"rule {name} is not watched in this database; run `pgherald install`")
        table, remembered, key, key_types, type_ = found
        if not remembered:
            raise SchemaError(f"rule {name}: its rows from before are not remembered yet; run `pgherald install`")
        if not options.dry_run and conn.execute(_QUERIES["lock_backfill"], {"rule": name}).fetchone() != (True,):
            raise SchemaError(f"another backfill of rule {name} is at work; wait for its end")
        query = _query(rule, table, key, key_types, type_, options)
        values: dict[str, Any] = {"rule": name, "value": rule.becomes, "since": options.since, "until": options.until}
        after: list[bytes] | None = None
        left = options.limit
        while left is None or left > 0:
            begun = time.monotonic()
            # With a rate, no more in one page than a second's worth, so that it does not come in gusts.
            most = min(x for x in (left, options.rate and max(1, int(options.rate)), PAGE) if x is not None)
            row = conn.execute(query, {**values, "after": after, "most": most, "page": PAGE}).fetchone()
            assert row is not None
            looked_at, after, missed, oldest = row
            yield Page(looked_at, missed, oldest)
            if left is not None:
                left -= len(missed)
            if after is None:
                return
            if options.rate and not options.dry_run:
                time.sleep(max(0.0, len(missed) / options.rate - (time.monotonic() - begun)))


def _query(rule: Rule, table: str, key: str, key_types: list[str], type_: str, options: Options) -> sql.Composed:
    columns = [sql.SQL("t.{}").format(quoted(column)) for column in rule.key]
    # Where it has come to goes to and fro as bytes: a key that is no text for a client in UTF-8 must not end the walk.
    bound = [
        sql.SQL("convert_from((%(after)s::bytea[])[{}], getdatabaseencoding()::text)::{}").format(
            sql.Literal(i + 1), sql.SQL(t)
        )
        for i, t in enumerate(key_types)
    ]
    known = "CASE WHEN isfinite(t.{0}) THEN t.{0} END" if rule.changed_at else "NULL::timestamptz"
    changed = sql.SQL(known).format(quoted(rule.changed_at))
    # With the time of the change, an event older than it does not speak for the row: it came back unseen. A row without
    # that time is spoken for by any.
    event_covers = sql.SQL("AND (o.captured_at < page.changed) IS NOT TRUE")
    handled_covers = sql.SQL(
        "AND (h.at < page.changed) IS NOT TRUE" + (" AND h.why <> 'existing'" if options.include_existing else "")
    )
    ring = sql.SQL("SELECT 1")
    if options.dry_run:
        write = sql.SQL("SELECT 1")
    elif options.mark_only:
        write = sql.SQL(
            "INSERT INTO pgherald.handled (rule, key, why) SELECT %(rule)s, pgherald.handled_key(key), 'marked' FROM missed "
            "ON CONFLICT (rule, key) DO UPDATE SET why = 'marked', at = now() RETURNING 1"
        )
    else:
        write = sql.SQL(
            "INSERT INTO pgherald.outbox (rule, key, history) "
            "SELECT %(rule)s, key, pgherald.noted('[]', 'backfilled', NULL) FROM missed RETURNING 1"
        )
        # The gate, as in a capture: who is awake will find them, who sleeps is rung.
        ring = sql.SQL(
            "SELECT CASE WHEN EXISTS (SELECT FROM written) AND NOT pg_try_advisory_xact_lock_shared(726354, 1) "
            "THEN pg_notify('pgherald', '') END"
        )
    return sql.SQL("""
        WITH page AS MATERIALIZED (
            SELECT {key} AS key, ARRAY[{texts}] AS at, {changed} AS changed, row_number() OVER (ORDER BY {columns}) AS number
              FROM {table} AS t
             WHERE t.{column}::{type} = %(value)s::{type} AND (%(after)s::bytea[] IS NULL OR ({columns}) > ({bound}))
               AND (%(since)s::timestamptz IS NULL OR {changed} >= %(since)s)
               AND (%(until)s::timestamptz IS NULL OR {changed} < %(until)s)
             ORDER BY {columns} LIMIT %(page)s),
        missed AS MATERIALIZED (
            SELECT key, changed, number FROM page
             WHERE NOT EXISTS (SELECT FROM pgherald.outbox AS o
                                WHERE o.rule = %(rule)s AND o.key = page.key AND o.state <> 'available' {event_covers})
               AND NOT EXISTS (SELECT FROM pgherald.outbox AS o
                                WHERE o.rule = %(rule)s AND o.key = page.key AND o.state = 'available')
               AND NOT EXISTS (SELECT FROM pgherald.handled AS h WHERE h.rule = %(rule)s AND h.key = pgherald.handled_key(page.key) {handled_covers})
             ORDER BY number LIMIT %(most)s),
        written AS ({write}),
        rung AS ({ring}),
        last AS (SELECT CASE WHEN (SELECT count(*) FROM missed) = %(most)s THEN (SELECT max(number) FROM missed)
                             WHEN (SELECT count(*) FROM page) = %(page)s THEN %(page)s END AS number)
        SELECT (SELECT count(*) FROM page), (SELECT at FROM page JOIN last USING (number)),
               (SELECT coalesce(array_agg(pgherald.shown(key) ORDER BY number), '{{}}') FROM missed), (SELECT min(changed) FROM missed)
          FROM rung""").format(
        key=verbatim(key),
        texts=sql.SQL(", ").join(
            sql.SQL("convert_to({}::text, getdatabaseencoding()::text)").format(column) for column in columns
        ),
        changed=changed,
        columns=sql.SQL(", ").join(columns),
        table=verbatim(table),
        column=quoted(rule.column),
        type=sql.SQL(type_),
        bound=sql.SQL(", ").join(bound),
        event_covers=event_covers,
        handled_covers=handled_covers,
        write=write,
        ring=ring,
    )
