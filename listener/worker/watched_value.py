"""The SQL that tells whether a row still has the rule's value. The server compares, as it did at the capture.

A comparison in Python would not know that a collation takes 've' for 'VE', or that a numeric(6,2) shows 5 as 5.00.
"""

from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db import keys
from listener.errors import RuleBroken


@dataclass(frozen=True, slots=True)
class WatchedValue:
    """A rule's value, and the type of its column. `spellings` are the value's texts: 5 may be 5.00, t is true."""

    value: str
    type: keys.ColumnType | None
    spellings: tuple[str, ...]

    @classmethod
    async def read(
        cls, conn: psycopg.AsyncConnection[Any], name: str, rule: Rule, types: keys.Types, value: str
    ) -> Self:
        """Read how the server writes the value. The session's search path must be `listener.db.connection.PATH`.

        Raises:
            RuleBroken: The value is no value of the type. An enum's value may have been renamed.
        """
        type_ = types.get(rule.column)
        if type_ is None:
            return cls(value, None, (value,))
        exact = sql.SQL(f"{{}}::{type_.exact or type_.qualified}").format(sql.Literal(value))
        text = keys.as_text(exact, type_)
        try:
            shown = await (await conn.execute(sql.SQL("SELECT {}").format(text), prepare=False)).fetchone()
        except psycopg.DataError as exc:
            raise broken(name, rule, value, type_) from exc
        return cls(value, type_, tuple({value.rstrip(" "), str(shown[0]).rstrip(" ") if shown else ""}))

    def exists(self) -> str:
        """Return the SQL of whether the type still has the value. A plan that names an enum's value outlives its name."""
        if self.type is None or self.type.kind != "e":
            return "true"
        return (
            sql.SQL(
                "EXISTS (SELECT FROM pg_catalog.pg_enum WHERE enumtypid OPERATOR(pg_catalog.=) {}::pg_catalog.oid "
                "AND enumlabel OPERATOR(pg_catalog.=) {}::pg_catalog.name)"
            )
            .format(self.type.oid, sql.Literal(self.value))
            .as_string(None)
        )

    def is_in(self, column: str) -> str:
        """Return the SQL of whether a column of the watched type has the value."""
        type_ = self.type
        # An enum's value has one text, and as a literal it would fail the query once it is renamed.
        if type_ and type_.kind != "e":
            literal = keys.literal(self.value, type_).as_string(None)
            return f"{column}::{type_.qualified} {type_.equality} {literal} {type_.collation or ''}"
        spellings = ", ".join(sql.Literal(each).as_string(None) for each in self.spellings)
        return (
            f"pg_catalog.rtrim(pg_catalog.concat({column}), ' ') "
            f"OPERATOR(pg_catalog.=) ANY (ARRAY[{spellings}]::pg_catalog.text[]) AND {column} IS NOT NULL"
        )


def broken(name: str, rule: Rule, value: str, type_: keys.ColumnType | None) -> RuleBroken:
    """Return the error of a rule whose value does not exist."""
    return RuleBroken(
        f"rule {name}: {value!r} is no value of {type_.qualified if type_ else 'the type'}, the type of "
        f"{rule.table}.{rule.column}; set `becomes` to the value's present name, then run `pgherald rewatch {name}`"
    )
