"""A row's key as text: the outbox's form, and the form that people write and read.

The two differ only for a composite key. The outbox holds it as PostgreSQL writes a `text[]`: ``{a,b}``. People write
``a,b``.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from listener.config.rules import Rule

# The longest key of a row that is read. The query `claim` and the function pgherald.shown() have the same limit.
MAX_KEY_BYTES = 16_384
# Neither can be sent to PostgreSQL. Python reads a byte that is not UTF-8 as a lone surrogate.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def parse_key(rule: Rule, text: str) -> str:
    """Return the outbox's form of a key as people write it: ``7``, or ``a,b`` for a composite one.

    An array literal such as ``{a,b}`` is returned unchanged. It can hold values with commas in them.

    Raises:
        ValueError: the text has more or fewer values than the rule's key has columns, or no database can have it.
    """
    if not is_storable(text):
        raise ValueError("the key has a NUL or a byte that is not UTF-8, which no key can have; correct it")
    if len(rule.key) == 1 or text.startswith("{"):
        return text
    parts = text.split(",")
    if len(parts) != len(rule.key):
        raise ValueError(
            f"the key of this rule has {len(rule.key)} columns: {','.join(rule.key)}; "
            'write one value for each, separated by commas, and a value with a comma as in an array: {"a,b",c}'
        )
    return array_literal(parts)


def is_storable(text: str) -> bool:
    """Return whether a database can have the text: it has no NUL, and no byte that is not UTF-8."""
    return not _UNSTORABLE.search(text)


def key_text(key: object) -> str:
    """Return a key that a query returned as the outbox holds it. A composite key is a text[], the outbox has the literal."""
    return array_literal([value_text(part) for part in key]) if isinstance(key, list) else value_text(key)


def value_text(value: object) -> str:
    """Return a value that the query did not cast to text, in PostgreSQL's spelling."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def show_key(rule: Rule, key: str) -> str:
    """Return a key of the outbox as people write it. A key with quoted values stays an array literal."""
    if len(rule.key) == 1 or re.search(r'["\\]', key):
        return key
    return key[1:-1]


def array_literal(parts: Iterable[str]) -> str:
    """Return the parts as PostgreSQL writes a `text[]` (manual, 8.15.6): quoted only where it must be."""
    return "{" + ",".join(_element(part) for part in parts) + "}"


def _element(part: str) -> str:
    # PostgreSQL's array parser knows only the white space of ASCII. One more quoted character, and the key of the
    # outbox would differ from the key that a trigger wrote.
    if part and part.upper() != "NULL" and not re.search(r'[{},"\\\s]', part, re.ASCII):
        return part
    return '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
