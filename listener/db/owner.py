"""Reading an application's table as a superuser, without lending the table's owner the superuser's rights.

Reading a table can run functions of its owner: in a policy, in an index's predicate, or in a view's column. They run
with the rights of the role that reads. A superuser therefore reads through a temporary SECURITY DEFINER function that
belongs to the table's owner, in a transaction that is rolled back:

- `SET ROLE` is not enough, because the owner's code could `RESET ROLE`. The server forbids both in such a function.
- The owner's code can leave a deferred trigger, a cursor WITH HOLD or a setting behind. Later in the transaction, or at
  its end, these would run or apply with the superuser's rights. A rollback removes them.

Any other role reads the table as itself, with the rights that the daemon will have too.
"""

import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from listener.db.connection import POLICIES_APPLY
from listener.db.errors import ON_STANDBY

_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)
_KEYS = re.compile(r"%(?:%|\(keys\)[sbt])")
# All names are qualified: the session may be a lookup session, which keeps the search path of its role.
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

# Both kinds of connection: only their synchronous parts are used.
Session = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


async def execute_as_owner(
    cursor: psycopg.AsyncCursor[Any], table: str, query: str, keys: Sequence[str] | None = None
) -> None:
    """Run a query on `cursor`; if this role is a superuser, with the rights of the owner of `table`.

    `keys` is the query's only parameter, if it has one. Raises what psycopg raises, and `OperationalError` on a standby.
    """
    conn = cursor.connection
    owner = await (await conn.execute(_OWNER, (table,), prepare=False)).fetchone()
    async with conn.transaction(force_rollback=True):
        # SHOW takes no snapshot, after which the transaction could not become READ WRITE.
        if await (await conn.execute("SHOW in_hot_standby", prepare=False)).fetchone() == ("on",):
            raise psycopg.OperationalError(ON_STANDBY)
        await conn.execute(f"SET TRANSACTION READ {'WRITE' if owner else 'ONLY'}; {POLICIES_APPLY}", prepare=False)
        if owner is None:
            await cursor.execute(query, {"keys": keys})
            return
        names, types = _columns(conn, query)
        found = await (await conn.execute(_TYPES, types, prepare=False)).fetchall()
        await conn.execute(_reader(conn, owner[0], query, [name for (name,) in found]), prepare=False)
        await cursor.execute(_read(conn, names), (keys,), prepare=False)


def fetch_as_owner(conn: psycopg.Connection[Any], table: str, query: sql.Composable) -> tuple[Any, ...] | None:
    """Return the first row of a query without parameters, with the same rights. Raises what psycopg raises."""
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
    """Return the columns' names, and their types as oids and modifiers. The server only parses the query for this."""
    parsed = conn.pgconn.prepare(b"", _bound(query).encode())
    described = conn.pgconn.describe_prepared(b"") if parsed.status == ExecStatus.COMMAND_OK else parsed
    if described.status != ExecStatus.COMMAND_OK:
        raise error_from_result(described)
    every = range(described.nfields)
    names = [(described.fname(i) or b"").decode() for i in every]
    return names, ([described.ftype(i) for i in every], [described.fmod(i) for i in every])


def _reader(conn: Session, owner: str, query: str, types: Sequence[str]) -> str:
    """Return the statements that create the function `pgherald_read`. `types` are those of the query's columns."""
    # Columns are named by number, because two columns of a lookup may have the same name.
    columns = sql.SQL(", ").join(sql.SQL(f"c{i} {name}") for i, name in enumerate(types))
    text = _bound(query)
    if not _EXPLAIN.match(text):
        # The protocol reports a domain as its base type, but a function must return exactly the types that it declares.
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
    """Return the query that calls the function and gives the columns their names back."""
    columns = sql.SQL(", ").join(sql.SQL(f"c{i} AS {{}}").format(sql.Identifier(name)) for i, name in enumerate(names))
    text = sql.SQL("SELECT {} FROM pg_temp.pgherald_read(").format(columns).as_string(conn)
    return text.replace("%", "%%") + "%s)"


def _bound(query: str) -> str:
    """Return the query with psycopg's placeholders replaced by the server's ``$1``."""
    return _KEYS.sub(lambda found: "%" if found[0] == "%%" else "$1", query)
