"""Take captured changes over from the inbox, so that a command finds them as events with a number."""

from typing import Any

import psycopg

from listener.db.queries import load

_QUERIES = load("admin") | {"take_over": load("outbox")["take_over"]}
_ROWS = 2000


def take_over(conn: psycopg.Connection[Any]) -> None:
    """Take over what the inbox has. A role that may only read takes nothing over."""
    (may,) = conn.execute(_QUERIES["may_take_over"]).fetchone() or (False,)
    while may:
        (taken,) = conn.execute(_QUERIES["take_over"], {"batch": _ROWS}).fetchone() or (0,)
        may = taken == _ROWS
