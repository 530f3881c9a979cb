"""The state that the checks share: settings, one read-only connection, and results of earlier checks."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.config.settings import Settings
from listener.db.connection import connect_anywhere
from listener.db.queries import load
from listener.db.schema_version import SchemaVersion
from listener.doctor.result import NotChecked
from listener.mail.composer import Message

QUERIES = load("doctor")
# Short time-outs: doctor also runs against a production database that is in trouble. With quote_all_identifiers
# on, the conditions of triggers would not compare equal.
_SESSION = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '2s'; SET LOCAL quote_all_identifiers = off"
_READ_ONLY = f"SET TRANSACTION READ ONLY; {_SESSION}"

Query = LiteralString | sql.SQL | sql.Composed
Rows = list[dict[str, Any]]


@dataclass
class Context:
    """The state that the checks share. Each check may rely on what those before it have set."""

    settings: Settings
    conn: psycopg.AsyncConnection[Any] | None = None
    """None if the database cannot be reached."""
    standby: bool = False
    lookup_standby: bool = False
    """True if `[database] lookup_url` leads to a standby."""
    installed: bool = True
    version: SchemaVersion | None = None
    """The schema's version; None if it is not known."""
    missing_column: set[str] = field(default_factory=set)
    """Rules whose capture function uses a column that no longer exists."""
    samples: dict[str, "RowSample | None"] = field(default_factory=dict)
    """The rows that each rule's lookup returned; None if it failed."""
    messages: dict[str, list[tuple[str, Message]]] = field(default_factory=dict)
    """Messages of each rule, one in each language, with the language's name."""

    @asynccontextmanager
    async def read_transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Open a read-only transaction for one check. Neither its settings nor its failure affect other checks."""
        if self.conn is None:
            raise NotChecked("there is no connection to the database")
        async with self.conn.transaction():
            await self.conn.execute(_READ_ONLY, prepare=False)
            yield self.conn

    @asynccontextmanager
    async def lookup_transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Open a transaction as the role that reads the application's tables. It is rolled back at its end."""
        if self.conn is None:
            raise NotChecked("there is no connection to the database")
        lookup_url = self.settings.database.lookup_url
        conn = await connect_anywhere(lookup_url) if lookup_url else self.conn
        try:
            async with conn.transaction(force_rollback=True):
                await conn.execute(_SESSION, prepare=False)
                yield conn
        finally:
            if lookup_url:
                await conn.close()

    async def rows(self, query: Query, values: Mapping[str, Any] | None = None) -> Rows:
        """Return all rows of a query, as dicts."""
        async with self.read_transaction() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, values)
            return await cursor.fetchall()

    async def row(self, query: Query, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the only row of a query."""
        [row] = await self.rows(query, values)
        return row

    def require_schema(self) -> None:
        """Raise `NotChecked` unless the schema is installed and this release can use its version."""
        if self.conn is not None and not self.installed:
            raise NotChecked("pgherald is not installed in this database")
        if self.version is not None and self.version.problem is not None:
            raise NotChecked("the schema has a version that this release cannot use")


@dataclass(frozen=True, slots=True)
class RowSample:
    """Rows that a lookup returned, by key, and the lookup's columns."""

    columns: frozenset[str]
    rows: Mapping[str, list[dict[str, Any]]]
