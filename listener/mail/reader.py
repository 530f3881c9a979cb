"""The reader of a message: the language and the time zone in which its template's filters write for this person."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from babel import Locale

from listener.mail.language import locale_of, tag_of

_DEFAULT_LANGUAGE = "en"


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader's language and time zone."""

    locale: Locale
    zone: tzinfo | None
    """None if the row names no time zone that exists"""
    direction: str
    """that of the words of the template, ``ltr`` or ``rtl``"""

    def local(self, moment: datetime) -> datetime:
        """Return a time in the reader's time zone, or in UTC if it is not known.

        A time without zone stays: it is that of a clock on some wall. So does one within a day of the years 1 and 9999.
        """
        try:
            return moment if moment.tzinfo is None else moment.astimezone(self.zone or UTC)
        except OverflowError:
            return moment


def reader_of(row: Mapping[str, Any], template: str, direction: str) -> Reader:
    """Return the reader, by the columns `language` and `timezone` of a row.

    Without a valid `language`, it is that of the `template`, or English. `direction` is that of the template's words.
    """
    locale = locale_of(tag_of(row.get("language"))) or locale_of(template) or Locale(_DEFAULT_LANGUAGE)
    return Reader(locale, _zone(row.get("timezone")), direction)


_reader: ContextVar[Reader | None] = ContextVar("reader", default=None)


@contextmanager
def writing_for(reader: Reader) -> Iterator[None]:
    """Let the filters write for this reader. A variable of the template would not reach an imported macro."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def current_reader() -> Reader | None:
    """Return the reader of the message that is rendered now."""
    return _reader.get()


def _zone(name: Any) -> tzinfo | None:
    found = _zone_names().get(name.lower()) if isinstance(name, str) else None
    return ZoneInfo(found) if found else None


@cache
def _zone_names() -> Mapping[str, str]:
    """Return the names of all time zones by their small letters, as PostgreSQL does not distinguish them.

    A name from a row is only compared with them, so that it cannot name a file.
    """
    return {name.lower(): name for name in available_timezones()}
