"""Decide for each error of the application if it would not have occurred without pgherald."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

# A plpgsql function whose plan outlives a change of a column's type fails this way.
_OURS = re.compile(r"pgherald|type of parameter \d+ \(.*\) does not match", re.IGNORECASE)
# Serializable transactions fail wherever they happen to be, also in a trigger.
_ANYWHERE = "40001"
# Races hit one database and spare the other. Numbers this far apart are no chance.
_RATIO, _FEW = 3, 5


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a write. `twin`: the SQLSTATE of the same transaction's error in the twin database, if it had one.

    `change`: the schema change that was in progress, or the last one.
    """

    table: str
    write: str
    change: str
    sqlstate: str
    text: str
    twin: str | None

    @property
    def cause(self) -> str:
        """Return SQLSTATE and message without the details that differ from case to case."""
        return f"{self.sqlstate} {re.sub(r'[0-9]+', 'N', self.text.splitlines()[0])}"


def describe(error: psycopg.Error) -> tuple[str, str]:
    """Return SQLSTATE and text of an error: its message, detail and context, and the objects that it names."""
    shown = error.diag
    parts = [shown.message_primary or str(error), shown.message_detail, shown.context, shown.schema_name]
    return error.sqlstate or "-----", "\n".join(part for part in parts if part)


def ours(failures: Sequence[Failure], twin: Counter[str]) -> list[Failure]:
    """Return the failures that pgherald caused. `twin`: how often each SQLSTATE occurred in the twin database.

    A failure is ours if it names pgherald. It is the application's if the same transaction failed in the same way in the
    twin. Any other one is ours if the twin never fails this way, or far less often.
    """
    seen = Counter(failure.sqlstate for failure in failures)
    found = []
    for failure in failures:
        if failure.sqlstate != _ANYWHERE and _OURS.search(failure.text):
            found.append(failure)
        elif failure.sqlstate != failure.twin:
            here, there = seen[failure.sqlstate], twin[failure.sqlstate]
            if not there or here > _RATIO * there + _FEW:
                found.append(failure)
    return found
