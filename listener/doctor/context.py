"""The state that the checks share: settings, connections, and results of earlier checks."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.db import keys
from listener.db.connection import SecuredAsyncCursor, parameters, secure
from listener.db.pool import Pool
from listener.db.pools import lookup_pool
from listener.db.queries import load
from listener.db.schema_version import SchemaVersion
from listener.doctor.result import NotChecked
from listener.errors import RuleBroken
from listener.mail.composer import Message
from listener.mail.templates import Templates

QUERIES = load("doctor")
# Short time-outs: doctor also runs against a production database that is in trouble. With quote_all_identifiers
# on, the conditions of triggers would not compare equal.
_SETTINGS = "SET statement_timeout = '5s'; SET lock_timeout = '2s'; SET quote_all_identifiers = off"
_LOCAL_SETTINGS = _SETTINGS.replace("SET ", "SET LOCAL ")
# Checks of several rules run at the same time. A server that is nearly out of connections must still have these few.
_MAX_CONNECTIONS = 3
# A connection that is in use for longer counts as lost. `_SETTINGS` end a statement earlier.
_PATIENCE_S = 30.0

NO_DATABASE = "there is no connection to the database"

Query = LiteralString | sql.SQL | sql.Composed
Rows = list[dict[str, Any]]


@dataclass
class Context:
    """The state that the checks share. Each check may rely on what those before it have set."""

    settings: Settings
    user: str | None = None
    """The role of `[database] url`; None if the database cannot be reached."""
    standby: bool = False
    read_only: bool = False
    """True if transactions are read-only by default, besides those of doctor itself."""
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
    injections: dict[tuple[str, frozenset[str]], tuple[str, str] | None] = field(default_factory=dict)
    """By template and columns of the lookup, what a hostile row does to the email, and the remedy."""
    _templates: dict[str, Templates | RuleBroken] = field(default_factory=dict)
    _column_types: dict[tuple[str, ...], keys.Types] = field(default_factory=dict)

    @asynccontextmanager
    async def read_transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Lend a connection that can only read. Neither its settings nor its failure affect other checks."""
        self.require_database()
        async with self._pool.connection() as conn, _with_settings(conn, "READ ONLY"):
            yield conn

    @asynccontextmanager
    async def lookup_session(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Lend a connection of the role that reads the application's tables, as `execute_as_owner` wants it."""
        self.require_database()
        async with self._lookup_checks.connection() as conn, _with_settings(conn, "READ WRITE"):
            yield conn

    @asynccontextmanager
    async def lookup_transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Open a transaction of that role, for statements that change tables. It is rolled back at its end."""
        self.require_database()
        async with self._lookup_checks.connection() as conn, conn.transaction(force_rollback=True):
            await conn.execute(f"SET TRANSACTION READ WRITE; {_LOCAL_SETTINGS}", prepare=False)
            yield conn

    @cached_property
    def lookups(self) -> Pool:
        """The pool for the rules' lookups, as the daemon has one."""
        return lookup_pool(self.settings.database.lookups)

    @cached_property
    def _pool(self) -> Pool:
        return _checks_pool(self.settings.database.url, standby=self.standby)

    @property
    def _lookup_checks(self) -> Pool:
        return self._tables_pool if self.settings.database.lookup_url else self._pool

    @cached_property
    def _tables_pool(self) -> Pool:
        return _checks_pool(self.settings.database.lookup_url, standby=self.lookup_standby)

    def templates(self, name: str) -> Templates:
        """Return the compiled template. Rules that use the same one share it.

        Raises:
            RuleBroken: The template is invalid.
        """
        if name not in self._templates:
            try:
                self._templates[name] = Templates({name}, self.settings.mail.templates)
            except RuleBroken as exc:
                self._templates[name] = exc
        found = self._templates[name]
        if isinstance(found, RuleBroken):
            raise found
        return found

    async def column_types(self, rule: Rule) -> keys.Types:
        """Return the types of the rule's key and its watched column. Several checks and rules share one query."""
        columns = rule.table, *rule.columns
        if columns not in self._column_types:
            rows = await self.rows(keys.COLUMN_TYPES, keys.of(rule))
            self._column_types[columns] = keys.read_types(tuple(row.values()) for row in rows)
        return self._column_types[columns]

    async def close(self) -> None:
        """Close all connections."""
        for name in ("lookups", "_pool", "_tables_pool"):
            if name in vars(self):
                await vars(self)[name].close()

    async def rows(self, query: Query, values: Mapping[str, Any] | None = None) -> Rows:
        """Return all rows of a query, as dicts."""
        async with self.read_transaction() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, values)
            return await cursor.fetchall()

    async def row(self, query: Query, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the only row of a query."""
        [row] = await self.rows(query, values)
        return row

    def require_database(self) -> None:
        """Raise `NotChecked` if the database cannot be reached."""
        if self.user is None:
            raise NotChecked(NO_DATABASE)

    def require_schema(self) -> None:
        """Raise `NotChecked` unless the schema is installed and this release can use its version."""
        self.require_database()
        if not self.installed:
            raise NotChecked("pgherald is not installed in this database")
        if self.version is not None and self.version.problem is not None:
            raise NotChecked("the schema has a version that this release cannot use")


def _checks_pool(url: str, *, standby: bool) -> Pool:
    attributes = {"target_session_attrs": "any"} if standby else {}
    return Pool(parameters(url, **attributes), _session, _MAX_CONNECTIONS, patience=_PATIENCE_S)


async def _session(conn: psycopg.AsyncConnection[Any]) -> None:
    # An owner of a table that we read could replace a prepared statement.
    conn.prepare_threshold = None
    if not await secure(conn):
        await conn.execute(f"{_SETTINGS}; SET default_transaction_read_only = on", prepare=False)


@asynccontextmanager
async def _with_settings(
    conn: psycopg.AsyncConnection[Any], mode: Literal["READ ONLY", "READ WRITE"]
) -> AsyncIterator[None]:
    """Open a transaction with doctor's settings if the session cannot keep them. Others have them since `_session`."""
    if not _is_shared(conn):
        yield
        return
    async with conn.transaction():
        await conn.execute(f"SET TRANSACTION {mode}; {_LOCAL_SETTINGS}", prepare=False)
        yield


def _is_shared(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether a pooler lends the session to others between transactions, so that it can keep no settings."""
    return conn.cursor_factory is SecuredAsyncCursor


@dataclass(frozen=True, slots=True)
class RowSample:
    """Rows that a lookup returned, by key, and the lookup's columns."""

    columns: frozenset[str]
    rows: Mapping[str, list[dict[str, Any]]]
