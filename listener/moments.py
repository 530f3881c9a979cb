"""Times that PostgreSQL has and Python has not: infinity, years before 1 and after 9999."""

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

# A day or more from the ends of Python's, so that they can be told in any zone.
_FIRST = datetime(1, 1, 3, tzinfo=UTC)
_LAST = datetime(9999, 12, 29, tzinfo=UTC)


class _AnyTimeLoader(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return _FIRST if text.startswith(b"-") or text.endswith(b"BC") else _LAST


def read_any_time(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """From now on, give the nearest time there is: one row that a person has edited must not hide the others."""
    conn.adapters.register_loader("timestamptz", _AnyTimeLoader)
