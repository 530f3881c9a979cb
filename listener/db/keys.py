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


@dataclass(frozen=True, slots=True)
class ColumnType:
    """How the server compares the values of a column. For a domain, it is the base type.

    Attributes:
        oid: The type.
        name: The type without length or scale.
        qualified: The same with its schema.
        exact: The type with its length or scale, if it has one: a numeric(6,2) shows 5 as 5.00.
        equality: The type's operator =.
        collation: A COLLATE clause with the column's collation, if the type has collations.
        kind: ``pg_type.typtype``: e for an enum.
    """

    oid: int
    name: str
    qualified: str
    exact: str | None = None
    equality: str = "OPERATOR(pg_catalog.=)"
    collation: str | None = None
    kind: str = "b"


Types = Mapping[str, ColumnType]


def of(rule: Rule) -> dict[str, Any]:
    """Return the parameters of `COLUMN_TYPES` for the columns that the rule names."""
    return {"table": rule.table, "columns": list(rule.columns)}


def read_types(rows: Iterable[tuple[Any, ...]]) -> dict[str, ColumnType]:
    """Return the types in the answer to `COLUMN_TYPES`, by column."""
    return {column: ColumnType(*rest) for column, *rest in rows}


def key_text(rule: Rule, types: Types) -> sql.Composed:
    """Return the key of row `t` as text: the column's text, or an array's text for a key of several columns."""
    parts = [value_text(name, types) for name in rule.key]
    if len(parts) == 1:
        return parts[0]
    return sql.SQL("ARRAY[{}]::pg_catalog.text").format(sql.SQL(", ").join(parts))


def value_text(name: str, types: Types) -> sql.Composed:
    """Return a column of row `t` as text."""
    return as_text(sql.SQL("t.{}").format(sql.Identifier(name)), types.get(name))


def as_text(value: sql.Composable, type_: ColumnType | None) -> sql.Composed:
    """Return a value of the type as text, by the type's output function.

    A cast to text could be a function that the type's owner has created. It would run with the reader's rights.
    """
    match type_ and type_.qualified:
        case "pg_catalog.bpchar":
            return sql.SQL("pg_catalog.rtrim(pg_catalog.concat({}), ' ')").format(value)
        case "pg_catalog.bool":
            value = sql.SQL("({}{})").format(value, _cast(type_))
            return sql.SQL("CASE WHEN {0} THEN 'true' WHEN NOT {0} THEN 'false' END").format(value)
        case _:
            return sql.SQL("CASE WHEN {0} IS NOT NULL THEN pg_catalog.concat({0}) END").format(value)


def literal(value: str, type_: ColumnType | None) -> sql.Composed:
    """Return a constant of the type.

    It is an untyped literal, which the type's input function reads. A text value could be converted by a cast function
    of the type's owner.
    """
    return sql.SQL("{}{}").format(sql.Literal(value), _cast(type_))


def equals(name: str, value: str, types: Types) -> sql.Composed:
    """Return the condition that a column of row `t` has a value. For a domain, its base type compares."""
    type_ = types.get(name)
    return sql.SQL("t.{}{} {} {}").format(
        sql.Identifier(name),
        _cast(type_),
        sql.SQL(type_.equality if type_ else "OPERATOR(pg_catalog.=)"),
        literal(value, type_),
    )


def match(rule: Rule, types: Types, parts: Sequence[str]) -> sql.Composed:
    """Return the condition that finds row `t` by its key's index. `parts` has a text for each column of the key."""
    return sql.SQL(" AND ").join(equals(name, part, types) for name, part in zip(rule.key, parts, strict=True))


def _cast(type_: ColumnType | None) -> sql.SQL:
    return sql.SQL(f"::{type_.qualified}" if type_ else "")
