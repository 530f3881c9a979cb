"""The application's tables as the database's catalog describes them: columns, primary keys and references."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from listener.db.errors import translate_errors
from listener.db.queries import load

_QUERIES = load("catalog")
# Numbers whose text depends on the session's settings.
_INEXACT = ("real", "double precision", "money")


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    `quoted` is its name with quotes where SQL needs them. `type` is the base type of a domain. `category` is
    pg_type.typcategory. `labels` are the values of an enum, `checks` the check constraints on this column alone and on
    its domain.
    """

    name: str
    quoted: str
    type: str
    category: str
    labels: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    nullable: bool = True

    @property
    def is_text(self) -> bool:
        """Return whether the column holds strings."""
        return self.category == "S"

    @property
    def may_be_key(self) -> bool:
        """Return whether the column's text is the same in every session, as `pgherald.check_watch()` wants of a key."""
        return self.type == "uuid" or (self.category in "NSEB" and self.type not in _INEXACT)

    @property
    def is_boolean(self) -> bool:
        """Return whether the column holds booleans."""
        return self.category == "B"

    @property
    def is_integer(self) -> bool:
        """Return whether the column holds whole numbers."""
        return self.type in ("smallint", "integer", "bigint")


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    `qualified` is its name with schema and quotes, `key` the columns of its primary key. `unique` has the columns of each
    unique index without a condition, the primary key's among them.
    """

    schema: str
    name: str
    qualified: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]
    references: list["Reference"] = field(default_factory=list, compare=False, repr=False)
    unique: list[tuple[str, ...]] = field(default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """`columns` hold the key of a row of `table`, in its columns `target`.

    `declared` is False if no foreign key says so and only the name of the column does.
    """

    columns: tuple[str, ...]
    table: Table
    target: tuple[str, ...]
    declared: bool = True


def read_tables(conn: psycopg.Connection[Any]) -> list[Table]:
    """Return all tables except the system's and pgherald's. Partitions are left out; their parent stands for them."""
    with translate_errors(), conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        columns = cursor.execute(_QUERIES["columns"]).fetchall()
        references = cursor.execute(_QUERIES["references"]).fetchall()
        uniques = cursor.execute(_QUERIES["unique_columns"]).fetchall()
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in columns:
        rows.setdefault(row["table"], []).append(row)
    tables = {oid: _table(of) for oid, of in rows.items()}
    for row in references:
        if row["table"] in tables and row["target"] in tables:
            tables[row["table"]].references.append(
                Reference(tuple(row["columns"]), tables[row["target"]], tuple(row["target_columns"]))
            )
    for row in uniques:
        if row["table"] in tables:
            tables[row["table"]].unique.append(tuple(row["columns"]))
    for table in tables.values():
        table.references.extend(_undeclared(table, list(tables.values())))
    return list(tables.values())


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = {
        row["column"]: Column(
            row["column"],
            row["quoted"],
            row["type"],
            row["category"],
            tuple(row["labels"]),
            tuple(row["checks"]),
            row["nullable"],
        )
        for row in rows
    }
    key = sorted((row["key_position"], row["column"]) for row in rows if row["key_position"])
    first = rows[0]
    return Table(first["schema"], first["name"], first["qualified"], columns, tuple(name for _, name in key))


def _undeclared(table: Table, tables: list[Table]) -> list[Reference]:
    """Return references by name: ``user_id`` beside a table ``users`` whose key has the same type."""
    declared = {column for reference in table.references for column in reference.columns}
    found = []
    for column in table.columns.values():
        stem = column.name.lower().removesuffix("_id")
        if stem == column.name.lower() or not stem or column.name in declared:
            continue
        targets = [other for other in tables if other is not table and _is_target(other, column, stem)]
        near = [other for other in targets if other.schema == table.schema] or targets
        if len(near) == 1:
            found.append(Reference((column.name,), near[0], near[0].key, declared=False))
    return found


def _is_target(table: Table, column: Column, stem: str) -> bool:
    if len(table.key) != 1 or table.columns[table.key[0]].type != column.type:
        return False
    return table.name.lower() in (stem, f"{stem}s", f"{stem}es", f"{stem[:-1]}ies")
