"""SQL expressions for a row's key as text, in the outbox's form, and for the comparison of a column with a value.

``pgherald.key_expression`` and ``pgherald.in_value`` build the same in the database. These do so where the schema may not
be installed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from listener.config.rules import Rule
from listener.db.queries import load

# Parameters `table` and `columns`. Returns a row for each column, for `read_types`.
COLUMN_TYPES = load("admin")["column_types"]
_EQUALITY = "OPERATOR(pg_catalog.=)"


@dataclass(frozen=True, slots=True)
class ColumnType:
    """How the server compares the values of a column.

    Attributes:
        name: The type without length or scale; for a domain, its base type.
        equality: The type's operator =, if it is not one of the server's own.
        collation: A COLLATE clause with the column's collation, or an empty text.
    """

    name: str
    equality: str = _EQUALITY
    collation: str = ""


Types = Mapping[str, ColumnType]


def of(rule: Rule) -> dict[str, Any]:
    """Return the parameters of `COLUMN_TYPES` for the rule's key and its watched column."""
    return {"table": rule.table, "columns": [*rule.key, rule.column]}


def read_types(rows: Iterable[tuple[str, str, str | None, str | None]]) -> dict[str, ColumnType]:
    """Return the types in the answer to `COLUMN_TYPES`, by column."""
    return {
        column: ColumnType(name, equality or _EQUALITY, collation or "")
        for column, name, equality, collation in rows
    }


def key_text(rule: Rule, types: Types) -> sql.Composed:
    """Return the key of row `t` as text: the column's text, or an array's text for a key of several columns."""
    parts = [value_text(name, types) for name in rule.key]
    if len(parts) == 1:
        return parts[0]
    return sql.SQL("ARRAY[{}]::pg_catalog.text").format(sql.SQL(", ").join(parts))


def value_text(name: str, types: Types) -> sql.Composed:
    """Return a column of row `t` as text, by the type's output function.

    A cast to text could be a function that the type's owner has created. It would run with the reader's rights.
    """
    column = sql.SQL("t.{}").format(sql.Identifier(name))
    match types[name].name if name in types else None:
        case "character" | "bpchar":
            return sql.SQL("pg_catalog.rtrim(pg_catalog.concat({}), ' ')").format(column)
        case "boolean":
            return sql.SQL("CASE WHEN {0} THEN 'true' WHEN NOT {0} THEN 'false' END").format(
                sql.SQL("t.{}{}").format(sql.Identifier(name), _cast(name, types))
            )
        case _:
            return sql.SQL("CASE WHEN {0} IS NOT NULL THEN pg_catalog.concat({0}) END").format(column)


def literal(value: str, name: str, types: Types) -> sql.Composed:
    """Return a constant of the column's type.

    It is an untyped literal, which the type's input function reads. A text value could be converted by a cast function
    of the type's owner.
    """
    return sql.SQL("{}{}").format(sql.Literal(value), _cast(name, types))


def equals(name: str, value: str, types: Types) -> sql.Composed:
    """Return the condition that a column of row `t` has a value. For a domain, its base type compares."""
    operator = types[name].equality if name in types else _EQUALITY
    return sql.SQL("t.{}{} {} {}").format(
        sql.Identifier(name), _cast(name, types), sql.SQL(operator), literal(value, name, types)
    )


def match(rule: Rule, types: Types, parts: Sequence[str]) -> sql.Composed:
    """Return the condition that finds row `t` by its key's index. `parts` has a text for each column of the key."""
    return sql.SQL(" AND ").join(equals(name, part, types) for name, part in zip(rule.key, parts, strict=True))


def _cast(name: str, types: Types) -> sql.SQL:
    return sql.SQL(f"::{types[name].name}" if name in types else "")
