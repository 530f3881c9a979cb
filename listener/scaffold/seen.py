"""The values that a column has now, for the operator to choose from. They never decide anything."""

from typing import Any

import psycopg
from psycopg import sql

from listener.db.queries import load
from listener.scaffold.catalog import Column, Table

_QUERIES = load("catalog")
# A state that is rarer than this is not worth a longer read of a large table.
MAX_ROWS = 10_000
# A column with more values is no state, and nobody reads a longer list.
MAX_VALUES = 20
# A longer text is no state: it may be something personal, which belongs in no error message.
_MAX_LENGTH = 40
# A migration may hold the table. `init` then does without the values.
_LIMITS = "SET LOCAL statement_timeout = '2s'; SET TRANSACTION READ ONLY"
_VALUES = """
    SELECT DISTINCT value::text AS value
      FROM (SELECT {column} AS value FROM {table} LIMIT {rows}) AS row
     WHERE value IS NOT NULL
     ORDER BY value
     LIMIT {limit}"""


def read_values(conn: psycopg.Connection[Any], table: Table, column: Column) -> tuple[str, ...]:
    """Return the values of a column, sorted: those of the statistics (pg_stats) and of the first 10,000 rows.

    The result is empty if this role may not read the column, or if the read takes more than 2 s. It is empty too if the
    values are too many or too long for states.
    """
    place = {"schema": table.schema, "table": table.name, "column": column.name}
    query = sql.SQL(_VALUES).format(
        column=sql.Identifier(column.name),
        table=sql.Identifier(table.schema, table.name),
        rows=sql.Literal(MAX_ROWS),
        limit=sql.Literal(MAX_VALUES + 1),
    )
    try:
        with conn.transaction():
            conn.execute(_LIMITS)
            rows = conn.execute(query).fetchall()
            rows += conn.execute(_QUERIES["common_values"], {**place, "limit": MAX_VALUES + 1}).fetchall()
    except psycopg.Error:
        return ()
    values = sorted({str(row[0]) for row in rows})
    return () if len(values) > MAX_VALUES or any(len(each) > _MAX_LENGTH for each in values) else tuple(values)
