"""The reader of a message: the language and the time zone in which the template's filters write for this person.

The filters are `date`, `time`, `datetime`, `number` and `currency`. Their forms are those of the CLDR, through Babel.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime, format_time
from babel.numbers import format_currency, format_decimal

from listener.mail.language import direction, tag_of
from listener.mail.values import Boolean, Null

_DEFAULT_LANGUAGE = "en"
# The widths that the CLDR has for a date. Any other format is a pattern of it, such as "EEEE, d. MMMM".
_WIDTHS = ("short", "medium", "long", "full")
# The rest would be zeros, or the noise of a binary fraction.
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader's language and time zone, and the direction of the words of the template."""

    locale: Locale
    zone: tzinfo
    direction: str


def reader_of(row: Mapping[str, Any], template: str) -> Reader:
    """Return the reader, by the columns `language` and `timezone` of a row. `template` is the language of the template.

    Without a valid column, the language is that of the template, or English, and the time zone is UTC.
    """
    locale = _locale(tag_of(row.get("language"))) or _locale(template) or Locale(_DEFAULT_LANGUAGE)
    return Reader(locale, _zone(row.get("timezone")), direction(template))


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


def write_date(value: Any, format: str = "long") -> Any:
    """Return the day of a date or a time: the filter ``date``. `format` is a width or a pattern of the CLDR."""
    reader, moment = _needed_reader(), _moment(value)
    if not isinstance(moment, date):
        return value
    if isinstance(moment, datetime):
        moment = _local(moment, reader).date()
    return format_date(moment, format, locale=reader.locale)


def write_time(value: Any, format: str = "short") -> Any:
    """Return the time of day: the filter ``time``."""
    reader, moment = _needed_reader(), _moment(value)
    if isinstance(moment, datetime):
        return format_time(_local(moment, reader), format, tzinfo=_zone_of(moment, reader), locale=reader.locale)
    return format_time(moment, format, locale=reader.locale) if isinstance(moment, time) else value


def write_datetime(value: Any, format: str = "long") -> Any:
    """Return the day and the time of day without its seconds: the filter ``datetime``."""
    reader, moment = _needed_reader(), _moment(value)
    if not isinstance(moment, datetime):
        return write_date(value, format) if isinstance(moment, date) else value
    if format not in _WIDTHS:
        return format_datetime(moment, format, tzinfo=_zone_of(moment, reader), locale=reader.locale)
    form = str(reader.locale.datetime_formats[format]).replace("'", "")
    return form.replace("{1}", write_date(moment, format)).replace("{0}", write_time(moment))


def write_number(value: Any, digits: int | None = None) -> Any:
    """Return a number with the separators of the language: the filter ``number``. `digits` are those after the point."""
    number = _number(value)
    if number is None:
        return value
    pattern = "#,##0." + ("#" * _MAX_DIGITS if digits is None else "0" * min(digits, _MAX_DIGITS))
    return format_decimal(number, pattern.rstrip("."), locale=_needed_reader().locale)


def write_currency(value: Any, code: str) -> Any:
    """Return an amount of money: the filter ``currency``. `code` is one of ISO 4217, such as ``EUR``."""
    number = _number(value)
    if number is None:
        return value
    return (
        write_number(number, 2)
        if isinstance(code, Null)
        else format_currency(number, code, locale=_needed_reader().locale)
    )


FILTERS: Mapping[str, Callable[..., Any]] = {
    "date": write_date,
    "time": write_time,
    "datetime": write_datetime,
    "number": write_number,
    "currency": write_currency,
}


def _needed_reader() -> Reader:
    # Jinja evaluates a filter of constants when it compiles the template, when there is no reader yet.
    return _reader.get() or reader_of({}, "")


def _moment(value: Any) -> Any:
    """Return the time that a text of a jsonb has in ISO 8601. Other texts stay, as do all other values."""
    if isinstance(value, str):
        for kind in (date, datetime, time):
            try:
                return kind.fromisoformat(value)
            except ValueError:
                pass
    return value


def _zone_of(moment: datetime, reader: Reader) -> tzinfo:
    # A `timestamp` is the time of a clock on some wall: which one is not known, so it is not moved.
    return UTC if moment.tzinfo is None else reader.zone


def _local(moment: datetime, reader: Reader) -> datetime:
    return moment if moment.tzinfo is None else moment.astimezone(reader.zone)


def _number(value: Any) -> Decimal | None:
    """Return the number, and None for everything else. A text of a jsonb may be one too."""
    if isinstance(value, Boolean) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    # Its digits are written out: those of 1e999999 would fill the memory.
    return number if number.is_finite() and abs(number.adjusted()) < 400 else None


@lru_cache(maxsize=256)
def _locale(tag: str) -> Locale | None:
    """Return the locale of a language tag, or of the part of it that is known."""
    while tag:
        try:
            return Locale.parse(tag, sep="-")
        except (UnknownLocaleError, ValueError):
            tag = tag.rpartition("-")[0]
    return None


def _zone(name: Any) -> tzinfo:
    return ZoneInfo(name) if isinstance(name, str) and name in _zone_names() else UTC


@cache
def _zone_names() -> frozenset[str]:
    """Return the names of all time zones. A name from a row is only compared with them, so that it cannot name a file."""
    return frozenset(available_timezones())
