"""What happened to a row, and why nothing did."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.database import one_line, translated
from listener.errors import SchemaError
from listener.queries import load
from listener.rules import Rule
from listener.schema import watch_values

_QUERIES = load("admin")


@dataclass(frozen=True, slots=True)
class Story:
    """`events` as `explain --json` gives them; `why` where there are none; `exists` says whether the row does."""

    events: list[dict[str, Any]]
    exists: bool
    why: str | None


def tell(conn: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> Story:
    """Collect a row's events, in order. `key` in the outbox's form."""
    with translated():
        with conn.cursor(row_factory=dict_row) as cursor:
            events = cursor.execute(_QUERIES["story"], {"rule": name, "key": key}).fetchall()
        for event in events:
            event["history"] = [{"at": at["at"], "what": at["what"], "detail": at["detail"]} for at in event["history"]]
            for column in ("captured_at", "settled_at", "scheduled_at"):
                event[column] = _iso(event[column])
        found, current = _row(conn, name, rule, key)
        why = _why(conn, name, rule, key, found, current) if not events else None
    return Story(events, found, why)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _row(conn: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> tuple[bool, str | None]:
    """Whether the row is there, and what the watched column says."""
    query = sql.SQL("SELECT {column}::text FROM {table} WHERE {match}").format(
        column=sql.Identifier(rule.column),
        table=_table(rule.table),
        match=sql.SQL(" AND ").join(
            sql.SQL("{}::text = {}").format(sql.Identifier(column), value)
            for column, value in zip(rule.key, _values(rule), strict=True)
        ),
    )
    try:
        # By text, as the key was captured; and first by the index, where the text is a value of the column's type.
        row = conn.execute(query, {"key": key}).fetchone()
    except psycopg.errors.UndefinedTable as exc:
        raise SchemaError(f"rule {name}: {one_line(exc)}") from exc
    return (True, row[0]) if row else (False, None)


def _table(name: str) -> sql.Composable:
    return sql.SQL(name)


def _values(rule: Rule) -> list[sql.Composable]:
    if len(rule.key) == 1:
        return [sql.SQL("%(key)s")]
    return [sql.SQL("(%(key)s::text[])[{}]").format(sql.Literal(i + 1)) for i in range(len(rule.key))]


def _why(conn: psycopg.Connection[Any], name: str, rule: Rule, key: str, found: bool, current: str | None) -> str:
    if not found:
        return f"there is no such row in {rule.table}"
    watched = conn.execute(_QUERIES["watched"], watch_values(name, rule)).fetchone()
    if watched is None or watched[2] is None:
        return "the rule is not watched in this database; run `pgherald install`"
    if current != rule.becomes:
        shown = "NULL" if current is None else repr(current)
        return f"{rule.column} is {shown}, not {rule.becomes!r}, and no change to it was captured since {watched[3]:%Y-%m-%d %H:%M}"
    handled = conn.execute(_QUERIES["handled"], {"rule": name, "key": key}).fetchone()
    if handled is not None and handled[0]:
        return f"the row was {rule.becomes!r} before the rule was watched, or its events were forgotten"
    if watched[4] < 2:
        return f"the triggers on {rule.table} are missing or disabled; run `pgherald install`"
    return "the row reached the value unseen: triggers were off, or it was restored or replicated"
