"""A rule's query, once for a batch: who gets the mail, whether they want it, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener import keys
from listener.address import Address, parse_address
from listener.database import is_away, lookup_failure, one_line
from listener.errors import BadData, DatabaseUnavailable, RuleBroken
from listener.outbox import Event
from listener.owner import execute_as_owner
from listener.pool import Pool
from listener.rules import OWN_COLUMNS, Rule, array_literal


@dataclass(frozen=True, slots=True)
class Mailing:
    """An event that is to be mailed: to whom, and with what."""

    event: Event
    recipient: Address
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unmailed:
    """An event that is not: `failed` tells a fault of the data from a good reason not to send."""

    event: Event
    reason: str
    detail: str | None = None
    failed: bool = False


class Lookup:
    """A rule's query. `as_owner`: run it as the table's owner where the role is a superuser, as the commands do.

    The daemon does not: it would be a statement more for each batch. Its role is no superuser, or has a login for lookups.
    """

    def __init__(self, name: str, rule: Rule, *, as_owner: bool = False) -> None:
        self.name = name
        self.rule = rule
        self._as_owner = as_owner
        # The value as the configuration writes it, and as the database does: t is true, 5 may be 5.00.
        self._spellings = {rule.becomes.rstrip(" ")}
        self._query = f"-- name: lookup {name}\n{rule.lookup.strip().rstrip(';')}"

    async def check(self, conn: psycopg.AsyncConnection[Any], lookups: Pool) -> frozenset[str]:
        """Return the lookup's columns. `conn` reads the catalog.

        Raises:
            RuleBroken: the query fails, or lacks a column that is read.
            DatabaseUnavailable: the database cannot be reached.
        """
        try:
            async with lookups.connection() as session, session.cursor() as cursor:
                await self._execute(cursor, [])
                columns = frozenset(column.name for column in cursor.description or ())
        except (psycopg.Error, OSError, TimeoutError) as exc:
            raise self._failure(exc) from exc
        for column in (*OWN_COLUMNS, *self.rule.require):
            if column not in columns:
                raise RuleBroken(
                    f"the lookup of rule {self.name} gives no column {column!r}; name one so in its SELECT"
                )
        await self._learn_spelling(conn)
        return columns

    async def _learn_spelling(self, conn: psycopg.AsyncConnection[Any]) -> None:
        column = self.rule.column
        try:
            types = dict(await (await conn.execute(keys.COLUMN_TYPES, keys.of(self.rule))).fetchall())
            if column not in types:
                return
            row = sql.SQL("SELECT {} AS {}").format(
                keys.literal(self.rule.becomes, column, types), sql.Identifier(column)
            )
            query = sql.SQL("SELECT {} FROM ({}) AS t").format(keys.value_text(column, types), row)
            found = await (await conn.execute(query.as_string(conn))).fetchone()
        except psycopg.Error as exc:
            raise self._failure(exc) from exc
        if found is not None:
            self._spellings.add(found[0].rstrip(" "))

    async def _execute(self, cursor: psycopg.AsyncCursor[Any], of: Sequence[str]) -> None:
        if self._as_owner:
            await execute_as_owner(cursor, self.rule.table, self._query, of)
        else:
            await cursor.execute(self._query, {"keys": list(of)})

    async def rows(self, pool: Pool, of: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What the lookup finds for these keys, by key.

        Raises:
            RuleBroken: it fails whatever the keys.
            BadData: it fails on the data behind these keys.
            DatabaseUnavailable: the database is away.
        """
        try:
            async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
                await self._execute(cursor, of)
                found = await cursor.fetchall()
        except psycopg.DataError as exc:
            # The driver's message would quote the row.
            raise BadData("lookup_error", f"{type(exc).__name__} (SQLSTATE {exc.sqlstate})") from exc
        except UnicodeDecodeError as exc:
            raise BadData("lookup_error", "text that is not UTF-8, in a database that does not mind") from exc
        except NotImplementedError as exc:
            # An interval, in a style that the driver does not read.
            raise RuleBroken(
                f"the lookup of rule {self.name} gives a value that cannot be read; cast it to text"
            ) from exc
        except (psycopg.Error, OSError, TimeoutError) as exc:
            raise self._failure(exc) from exc
        by_key: dict[str, list[dict[str, Any]]] = {key: [] for key in of}
        for row in found:
            if missing := [column for column in OWN_COLUMNS if column not in row]:
                raise RuleBroken(f"the lookup of rule {self.name} gives no column {missing[0]!r}")
            key = _key_text(row["key"])
            # As for the value: a char(n) key is captured without the blanks behind it.
            by_key.setdefault(key if key in by_key else key.rstrip(" "), []).append(row)
        return by_key

    def judge(self, event: Event, rows: Sequence[dict[str, Any]]) -> Mailing | Unmailed:
        """Whether, and to whom, to send: consent and all, as the row is now."""
        if not rows:
            return Unmailed(event, "row_gone")
        if len(rows) > 1:
            return Unmailed(event, "ambiguous", f"the lookup gives {len(rows)} rows for this key", failed=True)
        row = rows[0]
        # A char(n) comes with blanks behind, which mean nothing in it.
        if _value_text(row["current"]).rstrip(" ") not in self._spellings:
            return Unmailed(event, "reverted", f"{self.rule.column} is {_shown(row['current'])} by now")
        email = row["email"]
        if email is None or not str(email).strip():
            return Unmailed(event, "no_recipient")
        if row["consent"] is not True:
            return Unmailed(event, "no_consent", f"consent is {_shown(row['consent'])}")
        for column in self.rule.require:
            if row.get(column) is None:
                return Unmailed(event, "incomplete", f"{column} is NULL")
        try:
            recipient = parse_address(str(email))
        except BadData as exc:
            return Unmailed(event, exc.reason, str(exc), failed=True)
        return Mailing(event, recipient, row)

    def _failure(self, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
        if is_away(exc):
            return DatabaseUnavailable(f"the lookup of rule {self.name} cannot run: {one_line(exc)}")
        assert isinstance(exc, psycopg.Error)
        return lookup_failure(self.name, exc)


def _key_text(key: object) -> str:
    """A composite key comes as a text[]; the outbox holds it as the array's literal."""
    return array_literal([_value_text(part) for part in key]) if isinstance(key, list) else _value_text(key)


def _value_text(value: object) -> str:
    """As PostgreSQL writes it, for what a lookup gives without a cast."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _shown(value: object) -> str:
    return "NULL" if value is None else _value_text(value)[:40]
