"""Actions of a person on events: find, retry, discard and resolve them; pause and resume a rule."""

import getpass
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from listener.admin.inbox import take_over
from listener.db.errors import translate_errors
from listener.db.queries import load
from listener.db.schema import read_secret
from listener.errors import SchemaError
from listener.message_id import make_message_id

_QUERIES = load("admin")

Remedy = Literal["retry", "discard", "resolve_as_sent", "resolve_as_resend"]

# The states that each action applies to. An event that a worker has claimed is the worker's, and a sent one is never
# sent again.
APPLIES: dict[Remedy, tuple[str, ...]] = {
    "retry": ("available", "skipped", "failed"),
    "discard": ("available", "in_doubt"),
    "resolve_as_sent": ("in_doubt",),
    "resolve_as_resend": ("in_doubt",),
}


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event as `find` lists it. `key`, `person` and `reason` are escaped for display.

    `message_id` is the left part of its email's Message-ID.
    """

    id: int
    rule: str
    key: str
    state: str
    reason: str | None
    attempt: int
    captured_at: datetime
    scheduled_at: datetime | None
    settled_at: datetime | None
    person: str | None = None
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions for `find`; None means any. `older`: captured at least so many seconds ago."""

    ids: list[int] | None = None
    rule: str | None = None
    states: list[str] | None = None
    reason: str | None = None
    key: str | None = None
    person: str | None = None
    older: float | None = None
    limit: int | None = None

    @property
    def narrows(self) -> bool:
        """Return whether there is any condition; `limit` is not one."""
        parts = self.ids, self.rule, self.states, self.reason, self.key, self.person, self.older
        return any(part is not None for part in parts)


def find(conn: psycopg.Connection[Any], wanted: Filter) -> list[FoundEvent]:
    """Return the events that match, in the order of their ids."""
    values = {
        name: getattr(wanted, name) for name in ("ids", "rule", "states", "reason", "key", "person", "older", "limit")
    }
    with translate_errors(), conn.cursor(row_factory=class_row(FoundEvent)) as cursor:
        if wanted.ids is None:
            take_over(conn, wanted.rule, wanted.key)
        found = cursor.execute(_QUERIES["events"], values).fetchall()
        secret = read_secret(conn)
    return [
        replace(event, message_id=make_message_id(secret, event.rule, event.id, event.captured_at)) for event in found
    ]


def apply(conn: psycopg.Connection[Any], remedy: Remedy, ids: list[int], by: str | None = None) -> int:
    """Apply an action to events and return how many it changed.

    Events that have left the states it applies to stay as they are. `by` is what the history says about the person; by
    default it names the user of the operating system.
    """
    values = {"ids": ids, "states": list(APPLIES[remedy]), "by": by or f"by {_os_user()}"}
    with translate_errors():
        done = len(conn.execute(_QUERIES[remedy], values).fetchall())
        if done:
            conn.execute(_QUERIES["ring"])
    return done


def pause(conn: psycopg.Connection[Any], rule: str) -> datetime:
    """Hold back a rule's events on all daemons, and return since when. A second pause changes nothing.

    Raises:
        SchemaError: The rule is not watched in this database.
    """
    with translate_errors():
        row = conn.execute(_QUERIES["pause"], {"rule": rule}).fetchone()
    if row is None:
        raise _unwatched(rule)
    paused_at: datetime = row[0]
    return paused_at


def resume(conn: psycopg.Connection[Any], rule: str) -> None:
    """Deliver a paused rule's events again, wake the daemons, and let them try an unavailable mail server.

    Raises:
        SchemaError: The rule is not watched in this database.
    """
    with translate_errors():
        if conn.execute(_QUERIES["resume"], {"rule": rule}).fetchone() is None:
            raise _unwatched(rule)
        conn.execute(_QUERIES["retry_mail_server"])
        conn.execute(_QUERIES["ring"])


def retry_mail_server(conn: psycopg.Connection[Any]) -> int:
    """Let each daemon whose breaker is open try the mail server within a second. Return how many daemons that are."""
    with translate_errors():
        return len(conn.execute(_QUERIES["retry_mail_server"]).fetchall())


def _unwatched(rule: str) -> SchemaError:
    return SchemaError(f"rule {rule} is not watched in this database; run `pgherald install`")


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"
