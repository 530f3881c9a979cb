"""The answer to a lookup: the rows of its keys, and which rows were not read."""

from dataclasses import dataclass, field
from typing import Any

from listener.errors import BadData


class TooManyRows(BadData):
    """A lookup returns more rows for a batch than are read at once."""


@dataclass(slots=True)
class LookupResult:
    """The answer to a lookup.

    Attributes:
        rows: The rows by key.
        octets: The size of a key's rows, by key.
        too_large: The size of a row that exceeds the limit, by key. Such a row is not read.
        later: Keys whose rows were not read, because the others took all that may be read at once.
        reverted: For each key whose row is not in the rule's state, how it is now.
        gone: Keys whose row is not in the rule's table.
        people: Of a rule with `each`, the people of each key, in the lookup's order. In `rows`, `octets`, `too_large` and
            `later`, the `row_name` of a person's row then stands in the place of the key.
    """

    rows: dict[str, list[dict[str, Any]]]
    octets: dict[str, int] = field(default_factory=dict)
    too_large: dict[str, int] = field(default_factory=dict)
    later: set[str] = field(default_factory=set)
    reverted: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    people: dict[str, list[str]] = field(default_factory=dict)
