"""What the checks share: the settings, one connection that only reads, and what earlier checks have learned."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.config.settings import Settings
from listener.db.connection import connect_async
from listener.db.queries import load
from listener.db.schema_version import SchemaVersion
from listener.doctor.result import NotChecked
from listener.mail.composer import Message

QUERIES = load("doctor")
# The last, because conditions are compared as the server shows them.
_PATIENT = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '2s'; SET LOCAL quote_all_identifiers = off"
_READING = f"SET TRANSACTION READ ONLY; {_PATIENT}"

Query = LiteralString | sql.SQL | sql.Composed
Rows = list[dict[str, Any]]


@dataclass
class Context:
    settings: Settings
    conn: psycopg.AsyncConnection[Any] | None = None
    standby: bool = False
    installed: bool = True
    version: SchemaVersion | None = None
    # Rules whose capture function names a column that is gone.
    stale: set[str] = field(default_factory=set)
    # By rule: rows that its lookup gave. None where it gave none because it failed.
    samples: dict[str, "RowSample | None"] = field(default_factory=dict)
    # By rule: a message in each language.
    letters: dict[str, list[tuple[str, Message]]] = field(default_factory=dict)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A transaction of the check's own: what it sets stays behind in nobody's session, its failure in no other check."""
        if self.conn is None:
            raise NotChecked("there is no connection to the database")
        async with self.conn.transaction():
            await self.conn.execute(_READING, prepare=False)
            yield self.conn

    @asynccontextmanager
    async def tables(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Give a transaction of the login that reads the application's tables, which is rolled back at its end."""
        if self.conn is None:
            raise NotChecked("there is no connection to the database")
        lookup_url = self.settings.database.lookup_url
        conn = await connect_async(lookup_url) if lookup_url else self.conn
        try:
            async with conn.transaction(force_rollback=True):
                await conn.execute(_PATIENT, prepare=False)
                yield conn
        finally:
            if lookup_url:
                await conn.close()

    async def rows(self, query: Query, values: Mapping[str, Any] | None = None) -> Rows:
        async with self.reading() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, values)
            return await cursor.fetchall()

    async def row(self, query: Query, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        [row] = await self.rows(query, values)
        return row

    def need_schema(self) -> None:
        if self.conn is not None and not self.installed:
            raise NotChecked("this database has no pgherald in it")
        if self.version is not None and self.version.problem is not None:
            raise NotChecked("the schema has a version that this pgherald cannot use")


@dataclass(frozen=True, slots=True)
class RowSample:
    columns: frozenset[str]
    rows: Mapping[str, list[dict[str, Any]]]
