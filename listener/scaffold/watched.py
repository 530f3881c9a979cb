"""The rules that the database watches already, because a migration of Django or an earlier installation made their triggers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import class_row

from listener.db.errors import translate_errors
from listener.db.queries import load
from listener.scaffold.inference import Choice, State

_QUERIES = load("catalog")


@dataclass(frozen=True, slots=True)
class WatchedRule:
    """A row of `pgherald.rule`. `table` is its name with schema and quotes, and `left` its condition `from`."""

    rule: str
    table: str
    key: Sequence[str]
    column: str | None
    becomes: Sequence[str]
    when: str
    left: str
    changes: Sequence[str]
    capture: str

    @property
    def state(self) -> State:
        """The state that the triggers wait for."""
        if self.when:
            state = State(None, None, Choice(self.when))
        else:
            state = State(Choice(self.column), Choice(self.becomes[0]), more=tuple(self.becomes[1:]))
        return replace(state, left=self.left, changes=tuple(self.changes))


def read_watched(conn: psycopg.Connection[Any]) -> list[WatchedRule]:
    """Return the watched rules; none of them if the schema is missing, or if this role may not read it."""
    with translate_errors(), conn.transaction():
        if conn.execute(_QUERIES["may_read_rules"]).fetchone() is None:
            return []
        with conn.cursor(row_factory=class_row(WatchedRule)) as cursor:
            return cursor.execute(_QUERIES["watched"]).fetchall()


def choose_watched(rules: Sequence[WatchedRule], table: str, becomes: str | None) -> WatchedRule | None:
    """Return the only rule on `table`, or the only one there that waits for `becomes`; None if there is no such rule."""
    found = [rule for rule in rules if rule.table == table and (becomes is None or becomes in rule.becomes)]
    return found[0] if len(found) == 1 else None
