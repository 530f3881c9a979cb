"""Names of tables and columns: as words, and as lists in sentences."""

import re
from collections.abc import Iterable

from listener.scaffold.catalog import Column


def words(name: str) -> str:
    """Return ``emailOptIn`` and ``e-mail`` as email_opt_in and e_mail."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def listed(columns: Iterable[Column]) -> str:
    """Return the names of columns as ``a and b``."""
    return " and ".join(column.name for column in columns)
