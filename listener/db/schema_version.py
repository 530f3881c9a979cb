"""The version of the schema `pgherald`, and the versions that this pgherald can use.

A daemon uses the schema of its own version. It also uses the next version, if that schema says so: the function
``pgherald.usable_from()`` returns the oldest version whose daemons can use it. An old daemon that is restarted between
`pgherald install` and its replacement therefore starts and delivers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors

from listener.db.errors import translate_errors
from listener.db.queries import load
from listener.errors import SchemaError

# The same as `this_version` in sql/triggers.sql: the queries in sql/queries/ are written for it.
VERSION = 1
# Two versions ahead are refused whatever the database says. Every release rehearses one step, and none rehearses two.
_NEWEST_USABLE = VERSION + 1
_INSTALL = "run `pgherald install`"
_UPDATE = "update this pgherald to the release that installed the schema"
_QUERY = load("admin")["version"]


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The version of the schema in the database, and the oldest version whose daemons can use it."""

    number: int
    usable_from: int

    @property
    def is_newer(self) -> bool:
        """True if this pgherald is older than the schema."""
        return self.number > VERSION

    @property
    def problem(self) -> tuple[str, str] | None:
        """The fault and its remedy, or None if this pgherald can use the schema."""
        if self.number < VERSION:
            return f"version {self.number} is installed, but this pgherald needs version {VERSION}", _INSTALL
        if self.number > _NEWEST_USABLE:
            return (
                f"version {self.number} is installed, but this pgherald can use only versions {VERSION} and "
                f"{_NEWEST_USABLE}"
            ), _UPDATE
        if self.usable_from > VERSION:
            return (
                f"version {self.number} is installed, which only a pgherald made for version {self.usable_from} or later "
                f"can use (this one is made for version {VERSION})"
            ), _UPDATE
        return None

    def require_usable(self) -> "SchemaVersion":
        """Return this version.

        Raises:
            SchemaError: This pgherald cannot use the schema. The message says what to do.
        """
        if self.problem is not None:
            wrong, remedy = self.problem
            raise SchemaError(f"schema pgherald: {wrong}; {remedy}")
        return self

    def __str__(self) -> str:
        if self.is_newer:
            return f"version {self.number}, newer than version {VERSION} of this pgherald, which can use it"
        return f"version {self.number}"


async def usable_version(conn: psycopg.AsyncConnection[Any]) -> SchemaVersion:
    """Return the version of the installed schema.

    Raises:
        SchemaError: The schema is missing, or this pgherald cannot use it.
    """
    with _missing_schema():
        row = await (await conn.execute(_QUERY)).fetchone()
    assert row is not None
    return SchemaVersion(*row).require_usable()


def check_version(conn: psycopg.Connection[Any]) -> None:
    """Do the same as `usable_version` for a command, before it reads or changes the outbox."""
    with translate_errors(), _missing_schema():
        row = conn.execute(_QUERY).fetchone()
    assert row is not None
    SchemaVersion(*row).require_usable()


@contextmanager
def _missing_schema() -> Iterator[None]:
    try:
        yield
    except (errors.InvalidSchemaName, errors.UndefinedFunction) as exc:
        raise SchemaError(f"pgherald is not installed in this database; {_INSTALL}") from exc
