"""The events of a row, or the reason why it has none."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.admin.status import read_suspended
from listener.config.rules import Rule
from listener.db import keys
from listener.db.errors import summary, translate_errors
from listener.db.owner import fetch_as_owner
from listener.db.queries import load
from listener.db.schema import MIN_TRIGGERS, read_secret, watch_values
from listener.db.state import BOUND_STATE, in_state
from listener.errors import SchemaError
from listener.message_id import make_message_id, read_message_id
from listener.printable import utc

_QUERIES = load("admin")


@dataclass(frozen=True, slots=True)
class RowHistory:
    """The result of `read_history`.

    Attributes:
        events: The row's events as `explain --json` prints them. One in the inbox has no id and no Message-ID yet.
        exists: Whether the row exists.
        why: If there are no events, the reason.
        paused_at: Since when the rule is paused, if events wait for that.
        suspended: Since when the rule is suspended, and why, if events wait for that.
    """

    events: list[dict[str, Any]]
    exists: bool
    why: str | None
    paused_at: datetime | None
    suspended: tuple[datetime, str] | None


def read_history(
    conn: psycopg.Connection[Any],
    tables: psycopg.Connection[Any],
    name: str,
    rule: Rule,
    key: str,
    person: str | None = None,
) -> RowHistory:
    """Return a row's events, in order. `tables` is the connection that reads the watched table.

    With a `person`, the events of the row's other people are left out.

    Events are returned even if the table was dropped, or its column renamed: their history then says what they wait for.

    Raises:
        SchemaError: The schema is missing. Or there are no events, and the table or a column of it is missing.
        DatabaseUnavailable: The server or the network failed.
    """
    with translate_errors():
        row, missing = None, None
        try:
            row = _row(tables, name, rule, key)
        except (SchemaError, psycopg.errors.UndefinedColumn) as exc:
            missing = exc
        key = row.key if row is not None else _written(tables, rule, key)
        events = _events(conn, read_secret(conn), name, key)
        if missing is not None and not events:
            raise missing
        why = _why(conn, name, rule, key, row) if not events else None
        if person is not None and events:  # one that is not spread yet is for all people
            events = [event for event in events if event["person"] in (None, person)]
            why = None if events else "the row's events are for other people, whom their first lookup returned"
        return RowHistory(events, row is not None, why, *_held_back(conn, name, events))


@dataclass(frozen=True, slots=True)
class EmailHistory:
    """The result of `read_email`. `rule` and `key` name the watched row, and `history` has the event of the email alone."""

    rule: str
    key: str
    history: RowHistory


def read_email(conn: psycopg.Connection[Any], text: str) -> EmailHistory | int | None:
    """Return the event of the email whose Message-ID is in `text`.

    Return its number if the event is not in the outbox any more, and None if no Message-ID in `text` is of this database.

    Raises:
        SchemaError: The schema is missing, or must not be read.
        DatabaseUnavailable: The server or the network failed.
    """
    with translate_errors():
        secret = read_secret(conn)
        found = read_message_id(secret, text)
        if found is None:
            return None
        message_id, number = found
        row = conn.execute(_QUERIES["row_of_event"], {"id": number}).fetchone()
        events = _events(conn, secret, *row) if row is not None else []
        # The id alone would not do: after a restore it may belong to another event.
        events = [event for event in events if event["message_id"] == message_id]
        if row is None or not events:
            return number
        name, key = row
        return EmailHistory(name, key, RowHistory(events, True, None, *_held_back(conn, name, events)))


def _events(conn: psycopg.Connection[Any], secret: bytes, name: str, key: str) -> list[dict[str, Any]]:
    """Return a row's events, with the left part of their emails' Message-IDs."""
    with conn.cursor(row_factory=dict_row) as cursor:
        events = cursor.execute(_QUERIES["row_history"], {"rule": name, "key": key}).fetchall()
    for event in events:
        captured_at = event["captured_at"]
        event["message_id"] = event["id"] and make_message_id(secret, name, event["id"], captured_at)
        # Each session wrote its entries in its own time zone.
        event["history"] = [{**entry, "at": _iso(_moment(entry["at"], captured_at))} for entry in event["history"]]
        for column in ("captured_at", "settled_at", "scheduled_at"):
            event[column] = _iso(event[column])
    return events


def _held_back(
    conn: psycopg.Connection[Any], name: str, events: list[dict[str, Any]]
) -> tuple[datetime | None, tuple[datetime, str] | None]:
    """Return since when the rule is paused, and since when and why it is suspended, if an event waits."""
    if not any(event["state"] == "available" for event in events):
        return None, None
    return dict(conn.execute(_QUERIES["paused"]).fetchall()).get(name), read_suspended(conn).get(name)


def as_written(tables: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> str:
    """Return a key that a person typed in the outbox's form: 007 becomes 7. The row need not exist."""
    row = _row(tables, name, rule, key)
    return row.key if row is not None else _written(tables, rule, key)


def _written(conn: psycopg.Connection[Any], rule: Rule, key: str) -> str:
    """Return the key in the outbox's form by converting its text to the columns' types and back."""
    try:
        types, parts = _types(conn, rule), _parts(conn, rule, key)
        if not types or parts is None:
            return key
        columns = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(keys.literal(part, types.get(column)), sql.Identifier(column))
            for column, part in zip(rule.key, parts, strict=True)
        )
        query = sql.SQL("SELECT {} FROM (SELECT {}) AS t").format(keys.key_text(rule, types), columns)
        (written,) = conn.execute(query.as_string(conn)).fetchone() or (None,)
    except (psycopg.DataError, psycopg.ProgrammingError):
        return key
    return key if written is None else str(written)


def _types(conn: psycopg.Connection[Any], rule: Rule) -> keys.Types:
    return keys.read_types(conn.execute(keys.COLUMN_TYPES, keys.of(rule)).fetchall())


def _parts(conn: psycopg.Connection[Any], rule: Rule, key: str) -> list[str] | None:
    """Return the texts of the key's columns, or None if they are not as many as the rule's."""
    if len(rule.key) == 1:
        return [key]
    (parts,) = conn.execute("SELECT %s::text[]", (key,)).fetchone() or ([],)
    return parts if len(parts) == len(rule.key) and None not in parts else None


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    current: str | None
    in_state: bool


def _moment(text: str | None, captured_at: datetime) -> datetime:
    """Return the time of a history's entry; if it is invalid, the capture's time."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return captured_at


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def _row(conn: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> _Row | None:
    """Return the watched row, found by its index, or None."""
    try:
        types, parts = _types(conn, rule), _parts(conn, rule, key)
        if parts is None:
            return None
        bound = conn.execute(BOUND_STATE, {"rule": name, "table": rule.table}).fetchone() if rule.when else None
        query = sql.SQL("SELECT {key}, {current}, ({in_state}) IS TRUE FROM {table} AS t WHERE {match}").format(
            key=keys.key_text(rule, types),
            current=sql.SQL("NULL") if rule.when else keys.value_text(rule.column, types),
            in_state=in_state(rule, types, *(bound or (None, None))),
            table=sql.SQL(rule.table),
            match=keys.match(rule, types, parts),
        )
        row = fetch_as_owner(conn, rule.table, query)
    except psycopg.errors.UndefinedTable as exc:
        raise SchemaError(f"rule {name}: {summary(exc)}") from exc
    except psycopg.DataError:
        # The text is not a value of the key's type, so no row has this key.
        return None
    return _Row(*row) if row is not None else None


def _why(conn: psycopg.Connection[Any], name: str, rule: Rule, key: str, row: _Row | None) -> str:
    """Return why the row has no event."""
    if row is None:
        return f"there is no such row in {rule.table}"
    watched = conn.execute(_QUERIES["watched"], watch_values(name, rule)).fetchone()
    if watched is None or watched[2] is None:
        return "the rule is not watched in this database; run `pgherald install`"
    if not row.in_state:
        since = utc(watched[3])
        if rule.when:
            return f"the row does not match {rule.when!r}, and no change to that was captured since {since}"
        shown = "NULL" if row.current is None else repr(row.current)
        wanted = " or ".join(map(repr, rule.becomes))
        return f"{rule.column} is {shown}, not {wanted}, and no change to it was captured since {since}"
    handled = conn.execute(_QUERIES["handled"], {"rule": name, "key": key}).fetchone()
    if handled is not None:
        return {
            "existing": f"the row was {_shown_state(rule)} before the rule was watched",
            "marked": "the row was marked as handled, by `pgherald backfill --mark-only`",
            "purged": "the row's events were purged, some time after they were settled",
            "forgotten": "the row's events were erased, by `pgherald forget`",
        }[handled[0]]
    if watched[4] < MIN_TRIGGERS:
        return f"the triggers on {rule.table} are missing or disabled; run `pgherald install`"
    if rule.left:
        return (
            "the row came into the state from one that `from` does not name, or unseen: triggers were off, or it was "
            "restored or replicated; `pgherald backfill` finds it in either case"
        )
    return (
        "the row reached the value unseen: triggers were off, or it was restored or replicated; "
        "`pgherald backfill` finds it"
    )


def _shown_state(rule: Rule) -> str:
    return "in the state" if rule.when else " or ".join(map(repr, rule.becomes))
