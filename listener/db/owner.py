"""Reading an application's table as a superuser, without lending the table's owner our rights.

The functions behind a table (of a policy, of an index's predicate, of a view's column) run with the rights of the role that
reads it. A superuser therefore reads it through a temporary function of the table's owner, which is SECURITY DEFINER, in a
transaction that is rolled back:

- `SET ROLE` would not do, because the owner's code could `RESET ROLE`. In such a function the server forbids both.
- A deferred trigger, a cursor WITH HOLD or a setting that the owner's code leaves behind would run, or count, with the
  superuser's rights later in the transaction or at its end. A rollback takes them away.

Any other role reads the table as itself: it is what the daemon may do, and no more.
"""

import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from listener.db.connection import POLICIES_APPLY

_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)
_KEYS = re.compile(r"%(?:%|\(keys\)[sbt])")
# All names in full: the session may be one that keeps the path of its role.
_OWNER = """
    SELECT owner.rolname
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_roles AS owner ON owner.oid OPERATOR(pg_catalog.=) c.relowner
      JOIN pg_catalog.pg_roles AS me ON me.rolname OPERATOR(pg_catalog.=) CURRENT_USER
     WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND me.rolsuper AND NOT owner.rolsuper"""
_TYPES = """
    SELECT pg_catalog.format_type(type, modifier)
      FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.int4[]))
           WITH ORDINALITY AS found (type, modifier, i) ORDER BY i"""

Session = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


async def execute_as_owner(
    cursor: psycopg.AsyncCursor[Any], table: str, query: str, keys: Sequence[str] | None = None
) -> None:
    """Run a query that takes `keys`, if it takes any, as the owner of `table` where this role is a superuser.

    Raises what psycopg does.
    """
    conn = cursor.connection
    owner = await (await conn.execute(_OWNER, (table,), prepare=False)).fetchone()
    async with conn.transaction(force_rollback=True):
        await conn.execute(f"SET TRANSACTION READ {'WRITE' if owner else 'ONLY'}", prepare=False)
        await conn.execute(POLICIES_APPLY, prepare=False)
        if owner is None:
            await cursor.execute(query, {"keys": keys})
            return
        names, types = _columns(conn, query)
        found = await (await conn.execute(_TYPES, types, prepare=False)).fetchall()
        await conn.execute(_reader(conn, owner[0], query, [name for (name,) in found]), prepare=False)
        await cursor.execute(_read(conn, names), (keys,), prepare=False)


def fetch_as_owner(conn: psycopg.Connection[Any], table: str, query: sql.Composable) -> tuple[Any, ...] | None:
    """Return the first row of a query without parameters, read likewise. Raises what psycopg does."""
    text = query.as_string(conn).replace("%", "%%")
    owner = conn.execute(_OWNER, (table,)).fetchone()
    with conn.transaction(force_rollback=True):
        conn.execute(f"SET TRANSACTION READ {'WRITE' if owner else 'ONLY'}")
        conn.execute(POLICIES_APPLY)
        if owner is None:
            return conn.execute(text, ()).fetchone()
        names, types = _columns(conn, text)
        found = conn.execute(_TYPES, types).fetchall()
        conn.execute(_reader(conn, owner[0], text, [name for (name,) in found]))
        return conn.execute(_read(conn, names), (None,)).fetchone()


def _columns(conn: Session, query: str) -> tuple[list[str], tuple[list[int], list[int]]]:
    """The columns' names, and their types as oid and modifier. The server parses the query for it, and plans nothing."""
    parsed = conn.pgconn.prepare(b"", _bound(query).encode())
    described = conn.pgconn.describe_prepared(b"") if parsed.status == ExecStatus.COMMAND_OK else parsed
    if described.status != ExecStatus.COMMAND_OK:
        raise error_from_result(described)
    every = range(described.nfields)
    names = [(described.fname(i) or b"").decode() for i in every]
    return names, ([described.ftype(i) for i in every], [described.fmod(i) for i in every])


def _reader(conn: Session, owner: str, query: str, types: Sequence[str]) -> str:
    # Columns by number: of a lookup, two may have one name.
    columns = sql.SQL(", ").join(sql.SQL(f"c{i} {name}") for i, name in enumerate(types))
    text = _bound(query)
    if not _EXPLAIN.match(text):
        # The protocol tells of a domain only what it is made of, and a function's rows must be of its types exactly.
        casts = ", ".join(f"c{i}::{name}" for i, name in enumerate(types))
        names = ", ".join(f"c{i}" for i in range(len(types)))
        text = f"SELECT {casts} FROM ({text}\n) AS found ({names})"  # noqa: S608 - the operator's own query
    body = f"BEGIN RETURN QUERY EXECUTE {sql.Literal(text).as_string(conn)} USING keys; END"
    return (
        sql.SQL(
            "CREATE FUNCTION pg_temp.pgherald_read(keys pg_catalog.text[]) RETURNS TABLE ({columns})"
            " LANGUAGE plpgsql SECURITY DEFINER AS {body};"
            "ALTER FUNCTION pg_temp.pgherald_read(pg_catalog.text[]) OWNER TO {owner}"
        )
        .format(columns=columns, body=sql.Literal(body), owner=sql.Identifier(owner))
        .as_string(conn)
    )


def _read(conn: Session, names: Sequence[str]) -> str:
    columns = sql.SQL(", ").join(sql.SQL(f"c{i} AS {{}}").format(sql.Identifier(name)) for i, name in enumerate(names))
    text = sql.SQL("SELECT {} FROM pg_temp.pgherald_read(").format(columns).as_string(conn)
    return text.replace("%", "%%") + "%s)"


def _bound(query: str) -> str:
    return _KEYS.sub(lambda found: "%" if found[0] == "%%" else "$1", query)
