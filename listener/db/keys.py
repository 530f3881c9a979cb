"""SQL expressions for a row's key as text, in the outbox's form.

``pgherald.key_expression`` builds the same text in the database. These do so where the schema may not be installed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from listener.config.rules import Rule
from listener.db.queries import load

# Parameters `table` and `columns`. Returns (name, type) for each column; for a domain, its base type.
COLUMN_TYPES = load("admin")["column_types"]
# Parameters `table` and `column`. Returns the type with its length or scale.
EXACT_TYPE = load("admin")["exact_type"]


def of(rule: Rule) -> dict[str, Any]:
    """Return the parameters of `COLUMN_TYPES` for the rule's key and its watched column."""
    return {"table": rule.table, "columns": [*rule.key, rule.column]}


def key_text(rule: Rule, types: Mapping[str, str]) -> sql.Composed:
    """Return the key of row `t` as text: the column's text, or an array's text for a key of several columns."""
    parts = [value_text(name, types) for name in rule.key]
    if len(parts) == 1:
        return parts[0]
    return sql.SQL("ARRAY[{}]::pg_catalog.text").format(sql.SQL(", ").join(parts))


def value_text(name: str, types: Mapping[str, str]) -> sql.Composed:
    """Return a column of row `t` as text, by the type's output function.

    A cast to text could be a function that the type's owner has created. It would run with the reader's rights.
    """
    column = sql.SQL("t.{}").format(sql.Identifier(name))
    match types.get(name):
        case "character" | "bpchar":
            return sql.SQL("pg_catalog.rtrim(pg_catalog.concat({}), ' ')").format(column)
        case "boolean":
            return sql.SQL("CASE WHEN {0} THEN 'true' WHEN NOT {0} THEN 'false' END").format(typed(name, types))
        case _:
            return sql.SQL("CASE WHEN {0} IS NOT NULL THEN pg_catalog.concat({0}) END").format(column)


def typed(name: str, types: Mapping[str, str]) -> sql.Composed:
    """Return a column of row `t` for a comparison: as its domain's base type, if it has a domain."""
    return sql.SQL("t.{}{}").format(sql.Identifier(name), _cast(name, types))


def literal(value: str, name: str, types: Mapping[str, str]) -> sql.Composed:
    """Return a constant of the column's type.

    It is an untyped literal, which the type's input function reads. A text value could be converted by a cast function
    of the type's owner.
    """
    return sql.SQL("{}{}").format(sql.Literal(value), _cast(name, types))


def match(rule: Rule, types: Mapping[str, str], parts: Sequence[str]) -> sql.Composed:
    """Return the condition that finds row `t` by its key's index. `parts` has a text for each column of the key."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(typed(name, types), literal(part, name, types))
        for name, part in zip(rule.key, parts, strict=True)
    )


def _cast(name: str, types: Mapping[str, str]) -> sql.SQL:
    return sql.SQL(f"::{types[name]}" if name in types else "")
