"""Connections to PostgreSQL that are safe from other roles' objects."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel, OperationalError, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from listener.db.errors import ON_STANDBY, is_on_standby, translate_errors
from listener.db.moments import read_any_time
from listener.db.pool import limited
from listener.errors import ConfigError

C = TypeVar("C", bound=psycopg.AsyncConnection[Any])

# Every session that sends our own statements uses this path. Another role may have created a function, an operator or a
# type in `public`. With the usual path it could be found before the server's own, and would run with our rights.
PATH = "pg_catalog, pg_temp"
_SET_PATH = f"SET LOCAL search_path = {PATH}"
# Row security is off in our sessions: the server then refuses to read the outbox through a policy, which would silently
# hide events. Transactions that read the application's tables turn it on, because a policy may rightly show some rows.
POLICIES_APPLY = "SET LOCAL row_security = on"
# These apply to the server's end of the connection. It notices after about 10 s that a client's network was cut, and
# releases the client's locks. By Linux's defaults that takes two hours.
KEEPALIVES = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 10000"
)
# The default of the database may be repeatable read or serializable. Transactions of ours would then fail with
# serialization errors, and make those of the application fail that touch the same rows.
READ_COMMITTED = "read committed"
# psycopg parses timestamps in this style only, whatever the database's own is. libpq takes it from this variable and
# has no connection parameter for it.
os.environ["PGDATESTYLE"] = "ISO"
# The longest that a command waits for a connection, and the first settings of a session for their answers.
_CONNECT_TIMEOUT_S = 5
SETTINGS_TIMEOUT_S = 5.0


def parameters(url: str, **defaults: Any) -> dict[str, Any]:
    """Return libpq's parameters for `url`, with time limits that detect a silent server or network.

    With an empty `url`, libpq uses its own ``PG*`` variables. `defaults` apply where the URL does not set a parameter.
    A standby is refused unless the URL asks for one, because a name or a pooler may lead to several servers.

    Raises:
        ConfigError: `url` is not a connection string.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigError("[database] url: is not a connection string") from None
    return {
        "application_name": "pgherald",
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "target_session_attrs": os.environ.get("PGTARGETSESSIONATTRS", "primary"),
        **defaults,
        **given,
        # Otherwise the database or PGCLIENTENCODING chooses, and a name or a query may not be encodable in the result.
        "client_encoding": "UTF8",
    }


def connect(url: str) -> psycopg.Connection[Any]:
    """Return a secured connection for a command, in autocommit.

    Raises:
        ConfigError: `url` is not a connection string.
        SchemaError, DatabaseUnavailable: See `translate_errors`.
    """
    with translate_errors():
        conn: psycopg.Connection[Any] = psycopg.connect(**parameters(url), autocommit=True)
        # The owner of a table that we read could DEALLOCATE a prepared statement and PREPARE another of the same name.
        conn.prepare_threshold = None
        read_any_time(conn)
        try:
            if conn.execute(_secure(conn)).fetchone() is None:
                conn.cursor_factory = _SecuredCursor
                conn.isolation_level = IsolationLevel.READ_COMMITTED
        except BaseException:
            conn.close()
            raise
    return conn


@contextmanager
def tables_of(conn: psycopg.Connection[Any], lookup_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield the connection that reads the application's tables: a new one to `lookup_url` if set, otherwise `conn`."""
    if not lookup_url:
        yield conn
    else:
        with connect(lookup_url) as tables:
            yield tables


async def connect_async(url: str) -> psycopg.AsyncConnection[Any]:
    """Return a secured connection, in autocommit. Raises what psycopg raises, and `TimeoutError`."""
    return await connect_as(psycopg.AsyncConnection, url)


async def connect_anywhere(url: str) -> psycopg.AsyncConnection[Any]:
    """Do the same, but connect to a standby if `url` leads to no primary, so that a check can say so."""
    try:
        return await connect_async(url)
    except OperationalError as exc:
        if not is_on_standby(exc):
            raise
        return await connect_as(psycopg.AsyncConnection, url, target_session_attrs="any")


async def connect_as(kind: type[C], url: str, **defaults: Any) -> C:
    """Return a secured connection of class `kind`, in autocommit. `defaults` are those of `parameters`.

    Raises what psycopg raises, and `TimeoutError`.
    """
    conn: C = await kind.connect(**parameters(url, **defaults), autocommit=True)
    conn.prepare_threshold = None
    try:
        with limited(conn, SETTINGS_TIMEOUT_S):
            await secure(conn)
    except BaseException:
        await conn.close()
        raise
    return conn


async def secure(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Pin the search path and the isolation level, and make row security refuse instead of hide rows.

    Return True behind a pooler.

    A pooler lends one server session to several clients in turn. A setting of the session would affect the others and
    be missing in our next transaction. There, each statement therefore brings its settings along, in a transaction.
    """
    cursor = await conn.execute(_secure(conn), prepare=False)
    if await cursor.fetchone() is not None:
        return False
    conn.cursor_factory = SecuredAsyncCursor
    await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    return True


def _secure(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> sql.Composed:
    """Return the query that sets these and the isolation level, unless a pooler is in between: it then returns no row.

    A pooler makes up the process id that it reports at connect, so that it differs from pg_backend_pid().
    """
    return sql.SQL(
        "SELECT pg_catalog.set_config('search_path', {}, false), pg_catalog.set_config('row_security', 'off', false),"
        " pg_catalog.set_config('default_transaction_isolation', {}, false)"
        " WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {}"
    ).format(sql.Literal(PATH), sql.Literal(READ_COMMITTED), sql.Literal(conn.info.backend_pid))


class _SecuredCursor(psycopg.Cursor[Any]):
    """Secure the transaction of each statement, for a session that a pooler lends to others between transactions.

    In a transaction that the caller has begun, row security is the caller's to set.
    """

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        if not _is_idle(self):
            super().execute(_SET_PATH)
            return super().execute(*args, **kwargs)
        with self.connection.transaction():
            super().execute(f"{_SET_PATH}; SET LOCAL row_security = off")
            return super().execute(*args, **kwargs)


class PooledAsyncCursor(psycopg.AsyncCursor[Any]):
    """For a session that a pooler lends to others between transactions: each statement brings its settings along.

    `settings` apply to every statement. `own_settings` are those of a transaction that the caller has not begun.
    """

    settings = ""
    own_settings = ""

    async def execute(self, *args: Any, **kwargs: Any) -> Self:
        """Run one statement as psycopg does, after its settings."""
        if not _is_idle(self):
            await super().execute(self.settings)
            return await super().execute(*args, **kwargs)
        async with self.connection.transaction():
            await super().execute(f"{self.settings}; {self.own_settings}")
            return await super().execute(*args, **kwargs)


class SecuredAsyncCursor(PooledAsyncCursor):
    """The same as `_SecuredCursor` for asyncio."""

    settings = _SET_PATH
    own_settings = "SET LOCAL row_security = off"


class _SecuredAsyncRawCursor(SecuredAsyncCursor, psycopg.AsyncRawCursor[Any]):
    """The same for a query in the server's own form."""


def raw_cursor(conn: psycopg.AsyncConnection[Any]) -> psycopg.AsyncRawCursor[Any]:
    """Return a cursor for a query in the server's own form, with $1 for a parameter. It is as secure as `conn`'s others."""
    if issubclass(conn.cursor_factory, SecuredAsyncCursor):
        return _SecuredAsyncRawCursor(conn)
    return psycopg.AsyncRawCursor(conn)


def _is_idle(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    return cursor.connection.info.transaction_status == TransactionStatus.IDLE


async def refuse_standby(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raise `OperationalError` on a standby, as libpq does for ``target_session_attrs=primary``."""
    cursor = await conn.execute("SELECT pg_catalog.pg_is_in_recovery()", prepare=False)
    if await cursor.fetchone() == (True,):
        raise OperationalError(ON_STANDBY)
