"""Times that PostgreSQL can hold and Python cannot: infinity, 24:00, years before 1, years after 9999."""

from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import (
    DateLoader,
    IntervalLoader,
    TimeLoader,
    TimestampLoader,
    TimestamptzLoader,
    TimetzLoader,
)

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


def _or_text(loader: type[Loader]) -> type[Loader]:
    """Return a loader that returns the text of a value that Python cannot hold, such as ``infinity``."""

    class OrText(loader):  # type: ignore[valid-type, misc]
        """Load a value, or else its text.

        psycopg reads no style but ISO, which a function of the application may have changed in the session.
        """

        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            except (psycopg.DataError, OverflowError, NotImplementedError):
                return bytes(data).decode()

    return OrText


_OR_TEXT = {
    "date": _or_text(DateLoader),
    "interval": _or_text(IntervalLoader),
    "time": _or_text(TimeLoader),
    "timestamp": _or_text(TimestampLoader),
    "timestamptz": _or_text(TimestamptzLoader),
    "timetz": _or_text(TimetzLoader),
}


def read_any_time_or_text(conn: psycopg.AsyncConnection[Any]) -> None:
    """Let the connection read every date and time of the application's rows, if need be as PostgreSQL writes it.

    Otherwise a row that is valid until infinity would get no email.
    """
    for name, loader in _OR_TEXT.items():
        conn.adapters.register_loader(name, loader)


def read_any_time(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let the connection read every `timestamptz`.

    Otherwise one row that a person has edited by hand, for example to infinity, would make the whole query fail.
    """
    conn.adapters.register_loader("timestamptz", _ClampingLoader)
