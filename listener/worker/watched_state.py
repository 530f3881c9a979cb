"""The SQL that asks whether a row is still in the rule's state when its email is sent.

The question is part of the lookup's statement, so that both see the same snapshot. It reads the rule's own table by the
key that the lookup returned.
"""

from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db import keys
from listener.db.connection import PATH
from listener.db.state import BOUND_STATE
from listener.errors import RuleBroken
from listener.worker.watched_value import WatchedValue

# The first schema that the session's own path searches, besides temporary tables.
_FIRST_SCHEMA = """
    SELECT name FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS path (name, i)
     WHERE NOT name OPERATOR(pg_catalog.~) '^pg_temp' ORDER BY i LIMIT 1"""
# The answers. A row that several child tables have counts as in the state if one of them is: the greatest answer is used.
IN_STATE, IS_NULL, HAS_VALUE = "t", "n", "f"
_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class WatchedState:
    """A rule's state as SQL.

    Attributes:
        rule: The rule.
        types: The types of the rule's columns.
        values: Its values, of a rule without `when`.
        condition: Its condition, of a rule with `when`; None if the rule is not watched in this database.
        columns: The columns whose values the condition reads, if it does not read the row `new`.
    """

    rule: Rule
    types: keys.Types
    values: tuple[WatchedValue, ...] = ()
    condition: str | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    async def read(cls, conn: psycopg.AsyncConnection[Any], name: str, rule: Rule) -> Self:
        """Read the columns' types, and the condition as the server has understood it.

        Raises:
            RuleBroken: The state cannot be asked. An enum's value may have been renamed.
        """
        async with conn.transaction():
            first = await (await conn.execute(_FIRST_SCHEMA, prepare=False)).fetchone()
            await conn.execute(f"SET LOCAL search_path = {PATH}", prepare=False)
            found = await conn.execute(keys.COLUMN_TYPES, keys.of(rule), prepare=False)
            types = keys.read_types(await found.fetchall())
            if not rule.when:
                values = [await WatchedValue.read(conn, name, rule, types, value) for value in rule.becomes]
                return cls(rule, types, tuple(values))
            if first != ("pg_catalog",):
                # The server shows the names of pg_catalog without their schema.
                raise RuleBroken(
                    f"rule {name}: the search_path of the lookups' role names a schema before pg_catalog, "
                    "which could change the meaning of `when`; ALTER ROLE … RESET search_path"
                )
            cursor = await conn.execute(BOUND_STATE, {"rule": name, "table": rule.table}, prepare=False)
            condition, columns = await cursor.fetchone() or (None, None)
        return cls(rule, types, (), condition, tuple(columns or ()))

    def exists(self) -> str:
        """Return the SQL of whether the rule's values exist."""
        return " AND ".join(value.exists() for value in self.values) or "true"

    def answer(self, key: str) -> str:
        """Return the SQL that asks for the row whose key is in the column `key` of the lookup.

        It is NULL if there is no such row. Otherwise it is `IN_STATE`, `IS_NULL`, or `HAS_VALUE` with the column's value.
        """
        rows = f"{self.rule.table} AS new WHERE {self._match(key)}"
        if self.rule.when:
            condition, shown = f"({self.condition or 'true'})", f"'{HAS_VALUE}'"
            if self.columns:
                names = ", ".join(f"new.{column}" for column in self.columns)
                rows = f"(SELECT {names} FROM {rows}) AS state_columns"  # noqa: S608 - of the catalog
        else:
            column = sql.Identifier("new", self.rule.column).as_string(None)
            condition = " OR ".join(f"({value.is_in(column)})" for value in self.values)
            text = keys.as_text(sql.SQL(column), self.types.get(self.rule.column)).as_string(None)
            shown = (
                f"CASE WHEN {column} IS NULL THEN '{IS_NULL}' "
                f"ELSE pg_catalog.concat('{HAS_VALUE}', pg_catalog.\"left\"({text}, {_SHOWN_CHARS})) END"
            )
        answer = f"CASE WHEN {condition} THEN '{IN_STATE}' ELSE {shown} END"
        return f'(SELECT pg_catalog.max({answer} COLLATE pg_catalog."C") FROM {rows})'  # noqa: S608 - of ours

    def _match(self, key: str) -> str:
        """Return the condition that finds the row by its key's index."""
        parts = []
        for i, name in enumerate(self.rule.key, 1):
            text = f"pg_catalog.concat({key})"
            if len(self.rule.key) > 1:
                text = f"({text}::pg_catalog.text[])[{i}]"
            column, type_ = sql.Identifier("new", name).as_string(None), self.types.get(name)
            if type_ is None:
                parts.append(f"pg_catalog.concat({column}) OPERATOR(pg_catalog.=) {text}")
            else:
                cast = type_.qualified
                parts.append(f"{column}::{cast} {type_.equality} ({text})::{cast} {type_.collation or ''}".rstrip())
        return " AND ".join(parts)
