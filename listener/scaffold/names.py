"""Names of tables and columns: as words, and as lists in sentences."""

import re
from collections.abc import Iterable, Sequence

from listener.printable import printable
from listener.scaffold.catalog import Column


def words(name: str) -> str:
    """Return ``emailOptIn`` and ``e-mail`` as email_opt_in and e_mail."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def listed(columns: Iterable[Column]) -> str:
    """Return the names of columns as ``a and b``."""
    return " and ".join(column.name for column in columns)


def either(names: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def one_line(text: str) -> str:
    """Return text for a comment: on one line, every character visible."""
    return printable(" ".join(text.split()))
