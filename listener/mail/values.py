"""The values of a row as templates see them: NULL prints as nothing, and no value prints as Python writes it.

The text of a value is that of its class here, and so the same behind a filter, an operator or a method.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self
from unicodedata import bidirectional

from markupsafe import Markup

from listener.printable import without_invisible

# Classes of characters (UAX 9, table 4). In text from right to left, numbers too may end up in another order.
_LEFT_TO_RIGHT = frozenset({"L", "EN"})
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


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


class Boolean(int):
    """A boolean that prints ``true`` or ``false``. `bool` cannot be subclassed."""

    def __str__(self) -> str:
        return "true" if self else "false"

    __repr__ = __str__


class Number(Decimal):
    """A `numeric` that prints all its digits and no exponent."""

    def __str__(self) -> str:
        return format(Decimal(self), "f") if self.is_finite() else super().__str__()

    def __format__(self, format_spec: str, *context: Any) -> str:
        return super().__format__(format_spec, *context) if format_spec else str(self)


class Float(float):
    """A `real` or `double precision` that prints all its digits, no exponent, and no ``.0``."""

    def __str__(self) -> str:
        text = float.__repr__(self)
        if "e" in text:
            text = format(Decimal(text), "f")
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text.removesuffix(".0"))


class Array(list[Any]):
    """An array, or one of a jsonb. It prints its elements, separated by commas, without NULL as `array_to_string`."""

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self if not isinstance(each, Null))


class Object(dict[str, Any]):
    """An object of a jsonb. It prints as JSON."""

    def __str__(self) -> str:
        return as_json(self)


class Binary(bytes):
    r"""A `bytea`. It prints as PostgreSQL writes it: ``\x6162``."""

    def __str__(self) -> str:
        return rf"\x{self.hex()}"


class Interval(timedelta):
    """An `interval`. It prints as PostgreSQL writes it: ``1 day 02:00:00``."""

    def __str__(self) -> str:
        return " ".join(_interval(self))


def as_value(value: Any) -> Any:
    """Return a value of a row, or of an expression, as a template sees it. The times of a row are in UTC."""
    if isinstance(value, str):
        return value if isinstance(value, Null | Markup) else without_invisible(value)
    return as_printed(value)


def as_printed(value: Any) -> Any:
    """Return a value as a template prints it. Texts stay as they are: a filter may have put invisible marks in one."""
    match value:
        case None:
            return NULL
        case bool():
            return Boolean(value)
        case Array() | Object() | Number() | Float() | Binary() | Interval():
            return value
        case Decimal():
            return Number(value)
        case float():
            return Float(value)
        case list() | tuple():
            return Array(map(as_value, value))
        case dict():
            return Object((str(as_value(key)), as_value(each)) for key, each in value.items())
        case bytes():
            return Binary(value)
        case datetime():
            return value if value.tzinfo is None else value.astimezone(UTC)
        case timedelta():
            return Interval(value.days, value.seconds, value.microseconds)
    return value


def as_python(value: Any) -> Any:
    """Return the value that PostgreSQL's driver gave, for tests such as ``is none``, ``is true`` or ``is string``."""
    if isinstance(value, Null):
        return None
    return bool(value) if isinstance(value, Boolean) else value


def is_against(text: str, direction: str) -> bool:
    """Return whether parts of a text are written against `direction`, ``ltr`` or ``rtl`` (UAX 9)."""
    against = _LEFT_TO_RIGHT if direction == "rtl" else _RIGHT_TO_LEFT
    return not (text.isascii() and direction == "ltr") and any(bidirectional(char) in against for char in text)


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
        case (int() | Float() | Number()) as number:
            return str(number)
        case Array() as array:
            return f"[{', '.join(map(as_json, array))}]"
        case Object() as found:
            return "{" + ", ".join(f"{as_json(key)}: {as_json(each)}" for key, each in found.items()) + "}"
        case other:
            return json.dumps(str(other), ensure_ascii=False)


def _interval(value: timedelta) -> Iterator[str]:
    # Python counts -1 hour as -1 day and 23 hours, PostgreSQL as -01:00:00.
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    seconds = value.seconds
    if value.days:
        yield f"{sign}{value.days} day{'' if value.days == 1 else 's'}"
    if seconds or value.microseconds or not value.days:
        fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
        yield f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
