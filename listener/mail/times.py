"""The dates and times of a row. Their `strftime` writes in the reader's language and time zone, not in English and UTC."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import Self

from babel.dates import format_date, format_datetime, format_time

from listener.mail.reader import current_reader

# The directives that the C library writes in the language of the process, as formats of the CLDR.
_DAYS = {"A": "EEEE", "a": "EEE", "B": "MMMM", "b": "MMM", "h": "MMM", "x": "short"}
_CLOCKS = {"p": "a", "X": "medium", "r": "medium"}
_DIRECTIVE = re.compile("%[-_0^#]*([A-Za-z%])")


class Day(date):
    """A `date`. It prints as ``2026-12-06``."""

    def strftime(self, format: str) -> str:
        """Return the date in a format of the C library, with the names of the reader's language."""
        return date.strftime(self, _named(self, format))

    def ctime(self) -> str:
        """Return the date as the reader's language writes it."""
        return self.strftime("%c")


class Clock(time):
    """A `time`, with or without a zone. It prints as ``19:30:00``."""

    @classmethod
    def of(cls, value: time) -> Self:
        """Return the time of day that the driver gave."""
        return cls(value.hour, value.minute, value.second, value.microsecond, value.tzinfo)

    def strftime(self, format: str) -> str:
        """Return the time of day in a format of the C library, as the reader's language writes it."""
        return time.strftime(self, _named(self, format))


class Moment(datetime):
    """A `timestamptz`, in UTC, or a `timestamp`. It prints as ``2026-12-06 19:30:00+00:00``."""

    @classmethod
    def of(cls, value: datetime) -> Self:
        """Return the time that the driver gave, in UTC."""
        if value.tzinfo is not None and value.tzinfo is not UTC:
            # The first or the last day that Python knows stays in its own zone.
            with suppress(OverflowError):
                value = value.astimezone(UTC)
        return cls.combine(value.date(), value.timetz())

    def strftime(self, format: str) -> str:
        """Return the time in a format of the C library, in the reader's time zone and language."""
        reader = current_reader()
        local = self if reader is None else reader.local(self)
        return datetime.strftime(local, _named(local, format))

    def ctime(self) -> str:
        """Return the day and the time of day as the reader's language writes them."""
        return self.strftime("%c")


def from_iso(text: str) -> date | time | None:
    """Return the day, the time or the time of day that a text in ISO 8601 gives. None: it is another text."""
    for kind in (date, datetime, time):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            pass
    return None


def _named(moment: date | time, format: str) -> str:
    """Return the format with the words of the reader's language instead of the directives for them."""
    if (reader := current_reader()) is None:
        return format
    locale = reader.locale

    def name(found: re.Match[str]) -> str:
        directive = found[1]
        if directive == "c" and isinstance(moment, date):
            write = format_datetime if isinstance(moment, datetime) else format_date
            return write(moment, locale=locale)
        if directive in _DAYS and isinstance(moment, date):
            return format_date(moment, _DAYS[directive], locale=locale)
        if directive in _CLOCKS and isinstance(moment, datetime | time):
            return format_time(moment, _CLOCKS[directive], locale=locale)
        return found[0]

    return _DIRECTIVE.sub(name, format)
