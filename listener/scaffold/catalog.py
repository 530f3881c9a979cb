"""The application's tables, as the database's catalog knows them: columns, keys, and what refers to what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from listener.db.errors import translate_errors
from listener.db.queries import load

_QUERIES = load("catalog")


@dataclass(frozen=True, slots=True)
class Column:
    """`quoted` is its name as SQL writes it; `type` is what a domain is made of; `category` is pg_type's; `labels` are an
    enum's; `checks` name this column alone."""

    name: str
    quoted: str
    type: str
    category: str
    labels: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        return self.category == "S"

    @property
    def is_boolean(self) -> bool:
        return self.category == "B"


@dataclass(frozen=True, slots=True)
class Table:
    """`qualified` is its name as SQL writes it, schema and quotes included; `key` its primary key."""

    schema: str
    name: str
    qualified: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]
    references: list["Reference"] = field(default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """That `columns` hold the key of a row of `table`; `declared` by a foreign key, or only by their names."""

    columns: tuple[str, ...]
    table: Table
    target: tuple[str, ...]
    declared: bool = True


def read(conn: psycopg.Connection[Any]) -> list[Table]:
    """All tables that are not the system's or ours; partitions only as the table that they are part of."""
    with translate_errors(), conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        columns = cursor.execute(_QUERIES["columns"]).fetchall()
        references = cursor.execute(_QUERIES["references"]).fetchall()
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in columns:
        rows.setdefault(row["table"], []).append(row)
    tables = {oid: _table(of) for oid, of in rows.items()}
    for row in references:
        if row["table"] in tables and row["target"] in tables:
            tables[row["table"]].references.append(
                Reference(tuple(row["columns"]), tables[row["target"]], tuple(row["target_columns"]))
            )
    for table in tables.values():
        table.references.extend(_undeclared(table, list(tables.values())))
    return list(tables.values())


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = {
        row["column"]: Column(
            row["column"], row["quoted"], row["type"], row["category"], tuple(row["labels"]), tuple(row["checks"])
        )
        for row in rows
    }
    key = sorted((row["key_position"], row["column"]) for row in rows if row["key_position"])
    first = rows[0]
    return Table(first["schema"], first["name"], first["qualified"], columns, tuple(name for _, name in key))


def _undeclared(table: Table, tables: list[Table]) -> list[Reference]:
    """``user_id``, beside a table ``users`` whose key is of its type, where no foreign key says where it leads."""
    declared = {column for reference in table.references for column in reference.columns}
    found = []
    for column in table.columns.values():
        stem = column.name.lower().removesuffix("_id")
        if stem == column.name.lower() or not stem or column.name in declared:
            continue
        targets = [other for other in tables if other is not table and _could_hold(other, column, stem)]
        near = [other for other in targets if other.schema == table.schema] or targets
        if len(near) == 1:
            found.append(Reference((column.name,), near[0], near[0].key, declared=False))
    return found


def _could_hold(table: Table, column: Column, stem: str) -> bool:
    if len(table.key) != 1 or table.columns[table.key[0]].type != column.type:
        return False
    return table.name.lower() in (stem, f"{stem}s", f"{stem}es", f"{stem[:-1]}ies")
