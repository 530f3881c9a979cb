"""A lookup that sends no more than is asked for: rows that are too large stay on the server, and only their size comes.

The operator's query becomes a part of another one, which works out each row's size before anything of it is sent. Every
name in what is added is qualified: the session has the search_path of the role.
"""

from collections.abc import Sequence

from psycopg import Column

from listener.limits import MAX_KEY_BYTES

# In octets as the server sends them. A message has a megabyte at the most.
MAX_ROW_BYTES = 4 * 1024 * 1024
MAX_BATCH_BYTES = 16 * 1024 * 1024
# More are sent only where a lookup multiplies its rows, and then none of them is mailed.
MAX_ROWS = 2000
# In Python a value takes room of its own, and so does each part of a JSON document or an array, however short its text.
_VALUE = 50
_STRUCTURED = 4
_TEXTS = (25, 1042, 1043)

# OFFSET 0 keeps the planner from merging a level with the next, which would work out a column twice.
_QUERY = """SELECT octets, given, {values}
  FROM (SELECT {columns}, octets, octets OPERATOR(pg_catalog.<=) {most} AND (
               upto OPERATOR(pg_catalog.<=) %(budget)s::pg_catalog.int8 OR upto OPERATOR(pg_catalog.=) octets) AS given
          FROM (SELECT {columns}, octets,
                       pg_catalog.sum(CASE WHEN octets OPERATOR(pg_catalog.<=) {most} THEN octets::pg_catalog.int4 ELSE 0 END)
                           OVER (ROWS UNBOUNDED PRECEDING) AS upto
                  FROM (SELECT {columns}, {size} AS octets
                          FROM (SELECT {columns}
                                  FROM (
{lookup}
                                       ) AS found ({columns}) OFFSET 0) AS found OFFSET 0) AS sized) AS summed OFFSET 0) AS judged
 LIMIT {rows}"""


def limit_rows(lookup: str, columns: Sequence[Column]) -> str:
    """The query that gives, for each row of `lookup`, its size, whether it is given, and its columns.

    It takes `budget` besides: so many octets of rows are given, and the first row that is not over `ROW` in any case.
    Of a row that is not given all columns are NULL but the key, and that too where it is longer than a key may be.
    One row more than `ROWS` says that there are more.
    """
    key = max(i for i, column in enumerate(columns) if column.name == "key")
    names = [f"c{i}" for i in range(len(columns))]
    values = [f"CASE WHEN given THEN {name} END" for name in names]
    short = f"{_octets(names[key], columns[key])} OPERATOR(pg_catalog.<=) {MAX_KEY_BYTES}"
    values[key] = f"CASE WHEN given OR {short} THEN {names[key]} END"
    sizes = [f"{_VALUE * (len(columns) + 2)}::pg_catalog.int8"]
    for name, column in zip(names, columns, strict=True):
        weight = "" if column.type_code in _TEXTS else f" OPERATOR(pg_catalog.*) {_STRUCTURED}"
        if column.internal_size is None:
            sizes.append(f"coalesce({_octets(name, column)}{weight}, 0)")
    return _QUERY.format(
        columns=", ".join(names),
        lookup=lookup,
        size=" OPERATOR(pg_catalog.+) ".join(sizes),
        most=MAX_ROW_BYTES,
        values=", ".join(values),
        rows=MAX_ROWS + 1,
    )


def _octets(name: str, column: Column) -> str:
    """How long its text is, found without reading a text that lies outside of its row."""
    if column.internal_size is not None:
        return f"{_VALUE}"
    if column.type_code in _TEXTS:
        return f"pg_catalog.octet_length({name})"
    # The text of another type is only made where that will not be too much: the server itself has a limit for it.
    return (
        f"CASE WHEN pg_catalog.pg_column_size({name}) OPERATOR(pg_catalog.<=) {MAX_ROW_BYTES} "
        f"THEN pg_catalog.octet_length(pg_catalog.concat({name})) ELSE pg_catalog.pg_column_size({name}) END::pg_catalog.int8"
    )
