"""What a person may do to events: find them, try them again, give them up, say how a doubt ended."""

import getpass
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from listener.db.errors import translate_errors
from listener.db.queries import load
from listener.errors import SchemaError

_QUERIES = load("admin")

Remedy = Literal["retry", "discard", "resolve_as_sent", "resolve_as_resend"]

# Only these can be helped so. What a worker has in its hands is its own, and what is sent is never sent again.
APPLIES: dict[Remedy, tuple[str, ...]] = {
    "retry": ("available", "skipped", "failed"),
    "discard": ("available", "in_doubt"),
    "resolve_as_sent": ("in_doubt",),
    "resolve_as_resend": ("in_doubt",),
}


@dataclass(frozen=True, slots=True)
class FoundEvent:
    id: int
    rule: str
    key: str
    state: str
    reason: str | None
    attempt: int
    captured_at: datetime
    scheduled_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What is None does not narrow. `older` in seconds since the capture."""

    ids: list[int] | None = None
    rule: str | None = None
    states: list[str] | None = None
    reason: str | None = None
    key: str | None = None
    older: float | None = None
    limit: int | None = None

    @property
    def narrows(self) -> bool:
        return any(part is not None for part in (self.ids, self.rule, self.states, self.reason, self.key, self.older))


def find(conn: psycopg.Connection[Any], wanted: Filter) -> list[FoundEvent]:
    values = {name: getattr(wanted, name) for name in ("ids", "rule", "states", "reason", "key", "older", "limit")}
    with translate_errors(), conn.cursor(row_factory=class_row(FoundEvent)) as cursor:
        return cursor.execute(_QUERIES["events"], values).fetchall()


def apply(conn: psycopg.Connection[Any], remedy: Remedy, ids: list[int], by: str | None = None) -> int:
    """Do it to those that are still in a state it applies to; how many that were. `by`: for their history."""
    values = {"ids": ids, "states": list(APPLIES[remedy]), "by": by or f"by {_who()}"}
    with translate_errors():
        done = len(conn.execute(_QUERIES[remedy], values).fetchall())
        if done:
            conn.execute(_QUERIES["ring"])
    return done


def pause(conn: psycopg.Connection[Any], rule: str) -> datetime:
    """Let a rule's events wait, for all daemons. Since when: a second pause changes nothing.

    Raises:
        SchemaError: the rule is not watched in this database.
    """
    with translate_errors():
        row = conn.execute(_QUERIES["pause"], {"rule": rule}).fetchone()
    if row is None:
        raise _unwatched(rule)
    paused_at: datetime = row[0]
    return paused_at


def resume(conn: psycopg.Connection[Any], rule: str) -> None:
    """Let them go on, and ring. Raises as `pause`."""
    with translate_errors():
        if conn.execute(_QUERIES["resume"], {"rule": rule}).fetchone() is None:
            raise _unwatched(rule)
        conn.execute(_QUERIES["ring"])


def _unwatched(rule: str) -> SchemaError:
    return SchemaError(f"rule {rule} is not watched in this database; run `pgherald install`")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"
