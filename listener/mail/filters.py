"""The filters that pgherald adds to those of Jinja, and those of Jinja that here have to know NULL.

Dates, numbers and money have the forms of the CLDR, through Babel, for the reader of the message.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation, localcontext
from functools import wraps
from inspect import signature
from typing import Any

from babel.dates import format_date, format_datetime, format_time
from babel.numbers import format_currency, format_decimal
from jinja2 import Environment
from jinja2.filters import do_dictsort, do_max, do_min, do_sort, make_multi_attrgetter, sync_do_groupby, sync_do_sum
from jinja2.utils import pass_environment
from markupsafe import Markup

from listener.mail.language import direction
from listener.mail.reader import Reader, current_reader, reader_of
from listener.mail.times import from_iso
from listener.mail.values import NULL, Array, Boolean, Null, as_json, as_printed, is_against

# The widths that the CLDR has for a date. Any other format is a pattern of it, such as "EEEE, d. MMMM".
_WIDTHS = ("short", "medium", "long", "full")
# In these, a time of day is without its zone.
_WITHOUT_ZONE = ("short", "medium")
# The rest would be zeros, or the noise of a binary fraction.
_MAX_DIGITS = 20
# The digits of the longest number that a filter writes. Those of 1e999999 would fill the memory.
_MAX_MAGNITUDE = 400
# Mail programs find an address by its dots, with the full-width and ideographic ones, its @ and its colon.
_LINKED = re.compile("(?<=\\S)[.@:\u3002\uff0e\uff61\uff20](?=\\S)")


def write_date(value: Any, format: str = "long") -> Any:
    """Return the day of a date or a time: the filter ``date``. `format` is a width or a pattern of the CLDR."""
    reader, moment = _needed_reader(), _moment(value)
    if not isinstance(moment, date):
        return value
    if not isinstance(moment, datetime):
        return format_date(moment, format, locale=reader.locale)
    local = reader.local(moment)
    if format in _WIDTHS:
        return format_date(local.date(), format, locale=reader.locale)
    return format_datetime(local, format, locale=reader.locale)


def write_time(value: Any, format: str = "short") -> Any:
    """Return the time of day: the filter ``time``. It says UTC if the reader's time zone is not known."""
    reader, moment = _needed_reader(), _moment(value)
    if isinstance(moment, datetime):
        written = format_time(reader.local(moment), format, locale=reader.locale)
        unknown = reader.zone is None and moment.tzinfo is not None
        return f"{written} UTC" if unknown and format in _WITHOUT_ZONE else written
    return format_time(moment, format, locale=reader.locale) if isinstance(moment, time) else value


def write_datetime(value: Any, format: str = "long") -> Any:
    """Return the day and the time of day without its seconds: the filter ``datetime``."""
    reader, moment = _needed_reader(), _moment(value)
    if not isinstance(moment, datetime):
        return write_date(value, format) if isinstance(moment, date) else value
    if format not in _WIDTHS:
        return write_date(moment, format)
    form = str(reader.locale.datetime_formats[format]).replace("'", "")
    return form.replace("{1}", write_date(moment, format)).replace("{0}", write_time(moment))


def write_number(value: Any, digits: int | None = None) -> Any:
    """Return a number with the separators of the language: the filter ``number``. `digits` are those after the point."""
    number = _number(value)
    if number is None:
        return value
    free = digits is None or isinstance(digits, Null)
    pattern = "#,##0." + ("#" * _MAX_DIGITS if free else "0" * min(int(digits or 0), _MAX_DIGITS))
    with localcontext(prec=2 * _MAX_MAGNITUDE):
        return format_decimal(number, pattern.rstrip("."), locale=_needed_reader().locale)


def write_currency(value: Any, code: str) -> Any:
    """Return an amount of money: the filter ``currency``. `code` is one of ISO 4217, such as ``EUR``."""
    number = _number(value)
    if number is None:
        return value
    if not (currency := str(as_printed(code)).strip().upper()):
        return write_number(number, 2)
    with localcontext(prec=2 * _MAX_MAGNITUDE):
        return format_currency(number, currency, locale=_needed_reader().locale)


def oneline(value: object) -> str:
    """Return the value as one line: the template filter ``oneline``.

    In a text part, a value with line breaks could begin a line of its own and pass for words of the sender.
    """
    return " ".join(filter(None, str(as_printed(value)).splitlines()))


def nolink(value: object) -> str:
    """Return the value so that mail programs do not turn it into a link: the template filter ``nolink``.

    They find addresses by the dot, the @ and the colon. A zero-width non-joiner before each hides them.
    """
    return _LINKED.sub("\u200c\\g<0>", str(as_printed(value)))


def bdi(value: object) -> str:
    """Return the value in a ``<bdi>`` if it is written against the direction of the words: the filter of an HTML part."""
    text, reader = str(as_printed(value)), current_reader()
    against = reader is not None and is_against(text, reader.direction)
    return Markup("<bdi>{}</bdi>").format(text) if against else text


class Group(Array):
    """A group of the filter ``groupby``: a value, and the elements that have it."""

    @property
    def grouper(self) -> Any:
        """The value."""
        return self[0]

    @property
    def list(self) -> Any:
        """The elements."""
        return self[1]


def _with_null(function: Callable[..., Any], place: Callable[[Array], Sequence[Any]] | None = None) -> Any:
    """Return a filter of Jinja that ignores NULL, as the aggregates of SQL do, or puts it last with `place`.

    Python cannot compare NULL with a number, so that one NULL in an array would stop the message.
    """
    form = signature(function)

    @pass_environment
    @wraps(function)
    def called(environment: Environment, value: Any, *args: Any, **kwargs: Any) -> Any:
        attribute = form.bind(environment, value, *args, **kwargs).arguments.get("attribute")
        found = make_multi_attrgetter(environment, attribute)
        known, null = Array(), Array()
        for each in value:
            (null if any(isinstance(part, Null) for part in found(each)) else known).append(each)
        if place is not None:
            return [*function(environment, known, *args, **kwargs), *place(null)]
        return function(environment, known, *args, **kwargs) if known else NULL

    return called


def _dictsort(value: Mapping[str, Any], case_sensitive: bool = False, by: Any = "key", reverse: bool = False) -> Any:
    null = [(key, each) for key, each in value.items() if by == "value" and isinstance(each, Null)]
    known = {key: each for key, each in value.items() if (key, each) not in null}
    return [*do_dictsort(known, case_sensitive, by, reverse), *null]


def _groupby(environment: Environment, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return [Group(map(as_printed, each)) for each in sync_do_groupby(environment, value, *args, **kwargs)]


FILTERS: Mapping[str, Callable[..., Any]] = {
    "date": write_date,
    "time": write_time,
    "datetime": write_datetime,
    "number": write_number,
    "currency": write_currency,
    "oneline": oneline,
    "nolink": nolink,
    "bdi": bdi,
    "direction": direction,
    "min": _with_null(do_min),
    "max": _with_null(do_max),
    "sum": _with_null(sync_do_sum),
    "sort": _with_null(do_sort, lambda null: null),
    "groupby": _with_null(wraps(sync_do_groupby)(_groupby), lambda null: [Group([NULL, null])] if null else []),
    "dictsort": _dictsort,
    # Jinja's writes the value as Python does.
    "pprint": lambda value, *_: as_json(value),
}


def _needed_reader() -> Reader:
    # A template may also be rendered alone, without a row.
    return current_reader() or reader_of({}, "", "ltr")


def _moment(value: Any) -> Any:
    """Return the time that a text of a jsonb has in ISO 8601. Other texts stay, as do all other values."""
    moment = from_iso(value) if isinstance(value, str) else None
    return value if moment is None else moment


def _number(value: Any) -> Decimal | None:
    """Return the number, and None for everything else. A text of a jsonb may be one too."""
    if isinstance(value, Boolean) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < _MAX_MAGNITUDE else None
