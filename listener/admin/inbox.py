"""Take captured changes over from the inbox, so that a command finds them as events with a number."""

from typing import Any

import psycopg

from listener.db.queries import load

_QUERIES = load("admin") | {"take_over": load("outbox")["take_over"]}
_ROWS = 2000


def take_over(conn: psycopg.Connection[Any], rule: str | None = None, key: str | None = None) -> None:
    """Take over the changes of one rule, or of one row, or all. A role that may only read takes nothing over."""
    (has_more,) = conn.execute(_QUERIES["may_take_over"]).fetchone() or (False,)
    position = "(0,0)"
    while has_more:
        values = {"start": position, "batch": _ROWS, "rule": rule, "key": key}
        has_more, position = conn.execute(_QUERIES["take_over"], values).fetchone() or (False, position)
