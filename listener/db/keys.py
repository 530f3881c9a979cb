"""A row's key as text, as the outbox has it: the counterpart of `pgherald.key_expression` where that may not be installed."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from listener.config.rules import Rule
from listener.db.queries import load

# Takes `table` and `columns`; gives (name, type) for each, a domain as what it is made of.
COLUMN_TYPES = load("admin")["column_types"]
# Takes `table` and `column`; gives the type with its length or scale.
EXACT_TYPE = load("admin")["exact_type"]


def of(rule: Rule) -> dict[str, Any]:
    """Return the parameters of `COLUMN_TYPES` for the rule's key and its watched column."""
    return {"table": rule.table, "columns": [*rule.key, rule.column]}


def key_text(rule: Rule, types: Mapping[str, str]) -> sql.Composed:
    """Return the key of row `t` as the outbox has it."""
    parts = [value_text(name, types) for name in rule.key]
    if len(parts) == 1:
        return parts[0]
    return sql.SQL("ARRAY[{}]::pg_catalog.text").format(sql.SQL(", ").join(parts))


def value_text(name: str, types: Mapping[str, str]) -> sql.Composed:
    """Return a column of row `t` as text, by the type's own output.

    A cast to text could be a function that the type's owner has made, and would run with the reader's rights.
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
    """Return a column of row `t` as what its domain is made of, for comparison."""
    return sql.SQL("t.{}{}").format(sql.Identifier(name), _cast(name, types))


def literal(value: str, name: str, types: Mapping[str, str]) -> sql.Composed:
    """Return a constant of the column's type. From a literal and not from text, which a cast of the owner's could take."""
    return sql.SQL("{}{}").format(sql.Literal(value), _cast(name, types))


def match(rule: Rule, types: Mapping[str, str], parts: Sequence[str]) -> sql.Composed:
    """Return the condition by which row `t` is found, by its key's index."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(typed(name, types), literal(part, name, types))
        for name, part in zip(rule.key, parts, strict=True)
    )


def _cast(name: str, types: Mapping[str, str]) -> sql.SQL:
    return sql.SQL(f"::{types[name]}" if name in types else "")
