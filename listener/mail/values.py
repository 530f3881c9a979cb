"""The values of a row as templates see them: NULL prints as nothing, and no value prints as Python writes it.

The text of a value is that of its class here, and so the same behind a filter, an operator or a method.
"""

import json
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Self
from unicodedata import bidirectional

from jinja2.runtime import LoopContext
from markupsafe import Markup
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from listener.mail.times import Clock, Day, Moment
from listener.printable import without_invisible

# Classes of characters (UAX 9, table 4). In text from right to left, numbers too may end up in another order.
_LEFT_TO_RIGHT = frozenset({"L", "EN"})
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
# No character before the Hebrew block is written from right to left.
_FIRST_RIGHT_TO_LEFT = "\u0590"


class Null(str):
    """NULL: an empty text that equals None, is no other value, and makes every calculation with it NULL, as in SQL."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)

    def __lt__(self, other: object) -> bool:
        return False

    __le__ = __gt__ = __ge__ = __lt__

    def __format__(self, format_spec: str) -> str:
        return ""

    def __add__(self, other: Any) -> Any:
        # A text beside it is not lost: "Dear " + first_name.
        return other if isinstance(other, str) else self

    __radd__ = __add__

    def _null(self, *_: object) -> Self:
        return self

    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _null
    __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = __round__ = _null


NULL = Null()


class _Printed:
    """A value that is formatted as the text that it prints."""

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)


class Boolean(_Printed, int):
    """A boolean that prints ``true`` or ``false``. `bool` cannot be subclassed."""

    def __str__(self) -> str:
        return "true" if self else "false"

    __repr__ = __str__


class Number(Decimal):
    """A `numeric`, `real` or `double precision`. It prints all its digits and no exponent.

    All of them are one class, because Python's Decimal and float cannot be multiplied with each other. NaN is neither
    less nor greater than another number. For a Decimal the question is an error.
    """

    def __str__(self) -> str:
        return format(Decimal(self), "f") if self.is_finite() else super().__str__()

    def __format__(self, format_spec: str, *context: Any) -> str:
        return super().__format__(format_spec, *context) if format_spec else str(self)

    def __lt__(self, other: Any) -> bool:
        return not _has_nan(self, other) and super().__lt__(other)

    def __le__(self, other: Any) -> bool:
        return not _has_nan(self, other) and super().__le__(other)

    def __gt__(self, other: Any) -> bool:
        return not _has_nan(self, other) and super().__gt__(other)

    def __ge__(self, other: Any) -> bool:
        return not _has_nan(self, other) and super().__ge__(other)


class Array(_Printed, list[Any]):
    """An array, or one of a jsonb. It prints its elements, separated by commas, without NULL as `array_to_string`."""

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self if not isinstance(each, Null))


class Object(_Printed, dict[str, Any]):
    """An object of a jsonb. It prints as JSON."""

    def __str__(self) -> str:
        return as_json(self)


class Binary(_Printed, bytes):
    r"""A `bytea`. It prints as PostgreSQL writes it: ``\x6162``."""

    def __str__(self) -> str:
        return rf"\x{self.hex()}"


class Interval(_Printed, timedelta):
    """An `interval`. It prints as PostgreSQL writes it: ``1 day 02:00:00``."""

    def __str__(self) -> str:
        return " ".join(_interval(self))


class Span(_Printed, Range[Any]):
    """A range. It prints as PostgreSQL writes it: ``[1,5)``."""

    def __str__(self) -> str:
        if self.isempty:
            return "empty"
        return f"{self.bounds[0]}{as_printed(self.lower)},{as_printed(self.upper)}{self.bounds[1]}"


def as_value(value: Any) -> Any:
    """Return a value of a row as a template sees it: without invisible characters, and its times in UTC."""
    return as_printed(value, without_invisible)


def as_printed(value: Any, clean: Callable[[str], str] | None = None) -> Any:
    """Return the value of an expression as a template prints it, with each text in it passed through `clean`.

    Without `clean` texts stay as they are: a filter may have put invisible marks in one.
    """
    match value:
        case str():
            return value if clean is None or isinstance(value, Null | Markup) else clean(value)
        case None:
            return NULL
        case bool():
            return Boolean(value)
        case int() | Array() | Object() | Number() | Binary() | Interval() | Moment() | Day() | Clock() | Span():
            return value
        case Decimal():
            return Number(value)
        case float():
            return Number(repr(value).removesuffix(".0"))
        case list() | tuple() | range() | KeysView() | ValuesView() | ItemsView():
            return Array(as_printed(each, clean) for each in value)
        case dict():
            return Object((str(as_printed(key, clean)), as_printed(each, clean)) for key, each in value.items())
        case bytes():
            return Binary(value)
        case datetime():
            return Moment.of(value)
        case date():
            return Day(value.year, value.month, value.day)
        case time():
            return Clock.of(value)
        case timedelta():
            return Interval(value.days, value.seconds, value.microseconds)
        case Multirange():
            return Multirange(as_printed(each, clean) for each in value)
        case Range():
            lower, upper = (as_python(as_printed(end, clean)) for end in (value.lower, value.upper))
            return Span(lower, upper, value.bounds or "[)", value.isempty)
        case Iterator() if not isinstance(value, LoopContext):
            return Array(as_printed(each) for each in value)
    return value


def as_python(value: Any) -> Any:
    """Return the value that PostgreSQL's driver gave, for tests such as ``is none``, ``is true`` or ``is string``."""
    if isinstance(value, Null):
        return None
    return bool(value) if isinstance(value, Boolean) else value


def is_against(text: str, direction: str) -> bool:
    """Return whether parts of a text are written against `direction`, ``ltr`` or ``rtl`` (UAX 9)."""
    if direction == "ltr" and max(text, default="") < _FIRST_RIGHT_TO_LEFT:
        return False
    against = _LEFT_TO_RIGHT if direction == "rtl" else _RIGHT_TO_LEFT
    return any(bidirectional(char) in against for char in text)


def isolated(text: str, direction: str) -> str:
    """Return a line of text between U+2068 and U+2069 if it is against `direction`.

    Otherwise the words and the punctuation around it would change places. A URL stays as it is: mail programs would
    take the mark for a part of it.
    """
    alone = "://" not in text and "\n" not in text and is_against(text, direction)
    return f"\u2068{text}\u2069" if alone else text


def as_json(value: Any, **_: object) -> str:
    """Return the value as JSON. Its numbers have all their digits."""
    match as_printed(value):
        case Null():
            return "null"
        case str(text):
            return json.dumps(text, ensure_ascii=False)
        case (int() | Number()) as number:
            return str(number)
        case Array() as array:
            return f"[{', '.join(map(as_json, array))}]"
        case Object() as found:
            return "{" + ", ".join(f"{as_json(key)}: {as_json(each)}" for key, each in found.items()) + "}"
        case other:
            return json.dumps(str(other), ensure_ascii=False)


def _has_nan(*numbers: Any) -> bool:
    return any(isinstance(number, Decimal) and number.is_nan() for number in numbers)


def _interval(value: timedelta) -> Iterator[str]:
    # Python counts -1 hour as -1 day and 23 hours, PostgreSQL as -01:00:00.
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    seconds = value.seconds
    if value.days:
        yield f"{sign}{value.days} day{'' if value.days == 1 else 's'}"
    if seconds or value.microseconds or not value.days:
        fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
        yield f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
