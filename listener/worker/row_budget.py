"""Limit the size of a lookup's answer. Rows that are too large stay on the server, and only their size is sent.

The operator's query becomes a subquery of another one, which computes each row's size first. Every added name is
qualified, because the session has the role's own search_path.

The same statement says whether it ran on a standby, which may not have the event's row yet. A question of its own would
not do: a pooler can send each statement to another server.
"""

from collections.abc import Sequence

from psycopg import Column

from listener.config.keys import MAX_KEY_BYTES
from listener.config.rules import MAX_PERSON_CHARS
from listener.worker.watched_state import WatchedState

# In octets as the server sends them. A message has one megabyte at most, so a larger row cannot be in it whole.
MAX_ROW_BYTES = 4 * 1024 * 1024
MAX_BATCH_BYTES = 16 * 1024 * 1024
# A batch has 500 keys at most. More rows than this come only from a lookup that multiplies them, and none of them is sent.
MAX_ROWS = 2000
# In Python each value takes memory besides its text. Measured: about 50 bytes for an object.
_VALUE_BYTES = 50
# Each part of a JSON document or an array is an object of its own, so its text counts four times.
_STRUCTURED_FACTOR = 4
# The type OIDs of text, character and character varying.
_TEXT_OIDS = (25, 1042, 1043)

# OFFSET 0 keeps the planner from merging a level with the next, which would compute a column twice.
# The outer join returns a row even if the lookup finds none. On a standby the lookup is planned, but not run.
_QUERY = """SELECT standby, value_exists, octets, given, state, {columns}
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby, {exists} AS value_exists) AS server LEFT JOIN LATERAL (
SELECT octets, given, CASE WHEN given THEN {state} END, {values}
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
 WHERE NOT server.standby
 LIMIT {rows}) AS answer (octets, given, state, {columns}) ON true"""

# The rows of the people that are asked for, with the person as text in a column behind the others.
_PEOPLE = """SELECT {columns}, person
  FROM (SELECT {columns}, pg_catalog.concat({person}) COLLATE pg_catalog."C" AS person
          FROM (
{lookup}
               ) AS found ({columns}) OFFSET 0) AS named
 WHERE %(people)s::pg_catalog.text[] IS NULL OR person OPERATOR(pg_catalog.=) ANY (%(people)s::pg_catalog.text[])"""


def limit_rows(lookup: str, columns: Sequence[Column], state: WatchedState, each: str = "") -> str:
    """Return the query that adds five columns to each row of `lookup`.

    The first two are about the server: whether it is a standby, and whether the rule's value still exists. The others are
    about the row: its size, whether it is given, and the answer of `WatchedState` for it.

    Its parameter `budget` is the number of octets to give. The first row of at most `MAX_ROW_BYTES` is given in any case.
    In a row that is not given, all columns but the key are NULL. A key that is too long is NULL as well. One row more
    than `MAX_ROWS` says that there are more. If the lookup finds no row or is not run, a single row has no size.

    With `each`, the column of that name is the person. Its text is a further column behind the others, and is there in
    every row. It is empty if the person is NULL, and cut off if it is too long. The parameter `people` has the texts of the people
    whose rows are wanted; NULL: all.
    """
    key = max(i for i, column in enumerate(columns) if column.name == "key")
    names = [f"c{i}" for i in range(len(columns))]
    values = [f"CASE WHEN given THEN {name} END" for name in names]
    short = f"{_octets(names[key], columns[key])} OPERATOR(pg_catalog.<=) {MAX_KEY_BYTES}"
    values[key] = f"CASE WHEN given OR {short} THEN {names[key]} END"
    sizes = [f"{_VALUE_BYTES * (len(columns) + 2)}::pg_catalog.int8"]
    for name, column in zip(names, columns, strict=True):
        weight = "" if column.type_code in _TEXT_OIDS else f" OPERATOR(pg_catalog.*) {_STRUCTURED_FACTOR}"
        if column.internal_size is None:
            sizes.append(f"coalesce({_octets(name, column)}{weight}, 0)")
    if each:
        person = names[max(i for i, column in enumerate(columns) if column.name == each)]
        lookup = _PEOPLE.format(columns=", ".join(names), person=person, lookup=lookup)
        names.append("person")
        values.append(f'pg_catalog."left"(person, {MAX_PERSON_CHARS + 1})')
    return _QUERY.format(
        exists=state.exists().replace("%", "%%"),
        state=state.answer(f"judged.{names[key]}").replace("%", "%%"),
        columns=", ".join(names),
        lookup=lookup,
        size=" OPERATOR(pg_catalog.+) ".join(sizes),
        most=MAX_ROW_BYTES,
        values=", ".join(values),
        rows=MAX_ROWS + 1,
    )


def _octets(name: str, column: Column) -> str:
    """Return the SQL of a value's size as text. A text that is stored outside its row is not read for it."""
    if column.internal_size is not None:
        return f"{_VALUE_BYTES}"
    if column.type_code in _TEXT_OIDS:
        return f"pg_catalog.octet_length({name})"
    # Other types are converted to text only if that is not too large: the server fails beyond 1 GB.
    return (
        f"CASE WHEN pg_catalog.pg_column_size({name}) OPERATOR(pg_catalog.<=) {MAX_ROW_BYTES} "
        f"THEN pg_catalog.octet_length(pg_catalog.concat({name})) ELSE pg_catalog.pg_column_size({name}) END::pg_catalog.int8"
    )
