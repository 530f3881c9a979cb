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

from listener.database import POLICIES_APPLY

_KEYS = re.compile(r"%(?:%|\(keys\)[sbt])")
# All names in full: the session may be one that keeps the path of its role.
_OWNER = """
    SELECT owner.rolname
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_roles AS owner ON owner.oid OPERATOR(pg_catalog.=) c.relowner
      JOIN pg_catalog.pg_roles AS me ON me.rolname OPERATOR(pg_catalog.=) CURRENT_USER
     WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND me.rolsuper AND NOT owner.rolsuper"""
_READ = "SELECT * FROM pg_temp.pgherald_read(%s)"


async def execute_as_owner(
    cursor: psycopg.AsyncCursor[Any],
    table: str,
    query: str,
    keys: Sequence[str] | None = None,
    shape: str | None = None,
) -> None:
    """Run a query that takes `keys`, if it takes any, as the owner of `table` where this role is a superuser.

    `shape` is a query with the same columns, for one of which no view can be made. Raises what psycopg does.
    """
    conn = cursor.connection
    async with conn.transaction(force_rollback=True):
        await conn.execute(POLICIES_APPLY, prepare=False)
        found = await (await conn.execute(_OWNER, (table,), prepare=False)).fetchone()
        if found is None:
            await conn.execute("SET TRANSACTION READ ONLY", prepare=False)
            await cursor.execute(query, {"keys": keys})
        else:
            await conn.execute(_reader(found[0], query, shape or query, conn), prepare=False)
            await cursor.execute(_READ, (keys,), prepare=False)


def fetch_as_owner(conn: psycopg.Connection[Any], table: str, query: sql.Composable) -> tuple[Any, ...] | None:
    """Return the first row of a query without parameters, read likewise. Raises what psycopg does."""
    text = query.as_string(conn)
    with conn.transaction(force_rollback=True):
        conn.execute(POLICIES_APPLY)
        found = conn.execute(_OWNER, (table,)).fetchone()
        if found is None:
            conn.execute("SET TRANSACTION READ ONLY")
            return conn.execute(text).fetchone()
        conn.execute(_reader(found[0], text, text, conn))
        return conn.execute(_READ, (None,)).fetchone()


def _reader(owner: str, query: str, shape: str, conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str:
    """A view, of which only the columns are wanted, and a function that gives rows of those."""
    columns, body = _bound(shape, "NULL"), _bound(query, "$1")
    function = f"BEGIN RETURN QUERY EXECUTE {sql.Literal(body).as_string(conn)} USING keys; END"
    return (
        sql.SQL(
            "CREATE TEMPORARY VIEW pgherald_read AS {shape};"
            "CREATE FUNCTION pg_temp.pgherald_read(keys pg_catalog.text[]) RETURNS SETOF pg_temp.pgherald_read"
            " LANGUAGE plpgsql SECURITY DEFINER AS {function};"
            "ALTER FUNCTION pg_temp.pgherald_read(pg_catalog.text[]) OWNER TO {owner}"
        )
        .format(shape=sql.SQL(columns), function=sql.Literal(function), owner=sql.Identifier(owner))
        .as_string(conn)
    )


def _bound(query: str, keys: str) -> str:
    return _KEYS.sub(lambda found: "%" if found[0] == "%%" else keys, query)
