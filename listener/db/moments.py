"""Times that PostgreSQL can hold and Python cannot: infinity, years before 1, years after 9999."""

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

# Two days from the ends of Python's range, so that a conversion to any time zone stays within it.
_FIRST = datetime(1, 1, 3, tzinfo=UTC)
_LAST = datetime(9999, 12, 29, tzinfo=UTC)


class _ClampingLoader(TimestamptzLoader):
    """Load a `timestamptz`. A time outside Python's range becomes the nearest end of it."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return _FIRST if text.startswith(b"-") or text.endswith(b"BC") else _LAST


def read_any_time(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let the connection read every `timestamptz`.

    Otherwise one row that a person has edited by hand, for example to infinity, would make the whole query fail.
    """
    conn.adapters.register_loader("timestamptz", _ClampingLoader)
