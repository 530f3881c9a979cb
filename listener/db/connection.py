"""Connections to PostgreSQL, and what their errors mean here."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import InterfaceError, InternalError, OperationalError, errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from listener.db.pool import Pool, limited
from listener.errors import ConfigError, DatabaseUnavailable, RuleBroken, SchemaError
from listener.moments import read_any_time

C = TypeVar("C", bound=psycopg.AsyncConnection[Any])

# A plan made while the outbox is empty, kept until it is full, took 22 s a claim. These leave only the index scans.
_PINNED_PLANS = (
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off; SET enable_sort = off; SET jit = off; SET plan_cache_mode = force_generic_plan; "
    # An array's NULL is no text, whatever the database's own setting.
    "SET array_nulls = on; "
    # A mark must be on the disk before the dot, whatever the database's own setting.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_OVERVIEW_PLANS = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
# Of each session that sends our own statements. A function, an operator or a type that another role has made in a schema of
# the usual path would run with our rights; a policy would hide events without a word, so the server is to refuse instead.
PATH = "pg_catalog, pg_temp"
_PATH = f"SET LOCAL search_path = {PATH}"
# In a transaction around statements that read the application's tables, where policies may show a part of the rows.
POLICIES_APPLY = "SET LOCAL row_security = on"
# For the server's end of the connection: a client whose network is cut is gone for it after 10 s, not after two hours,
# and its locks with it.
KEEPALIVES = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 10000"
)
# The driver reads times in this style alone, whatever the database's is. libpq has a variable for it and no parameter.
os.environ["PGDATESTYLE"] = "ISO"
# What writes more than a daemon does.
OWNERS = "this is for the schema's owner: connect as a member of pgherald_owner that may read the watched table"
_AWAY = (OperationalError, InterfaceError, InternalError, OSError)
# A lookup is the operator's own query, and may take its time.
_LOOKUP_PATIENCE = 30.0
_TIMES = 20
_PATIENCE = 5.0


def parameters(url: str, **defaults: Any) -> dict[str, Any]:
    """libpq's parameters for `url` (empty: libpq's own ``PG*`` variables), with time limits for a peer that is silent.

    Raises:
        ConfigError: `url` is no connection string.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigError("[database] url: is not a connection string") from None
    return {
        "application_name": "pgherald",
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **defaults,
        **given,
        # Else it is the database's own, or PGCLIENTENCODING's, in which a name, or a query, may have no spelling.
        "client_encoding": "UTF8",
    }


def summary(exc: BaseException) -> str:
    if isinstance(exc, psycopg.Error) and exc.diag.message_primary:
        # Without the lines of the query that the driver adds.
        return exc.diag.message_primary
    return " ".join(str(exc).split()) or type(exc).__name__


def connect(url: str) -> psycopg.Connection[Any]:
    """Return a secured connection for a command, in autocommit."""
    with translate_errors():
        conn: psycopg.Connection[Any] = psycopg.connect(**parameters(url), autocommit=True)
        # The owner of a table that is read may DEALLOCATE a prepared statement and PREPARE another of its name.
        conn.prepare_threshold = None
        read_any_time(conn)
        try:
            if conn.execute(_secure(conn)).fetchone() is None:
                conn.cursor_factory = _SecuredCursor
        except BaseException:
            conn.close()
            raise
    return conn


@contextmanager
def tables_of(conn: psycopg.Connection[Any], lookup_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give the connection that reads the application's tables: of the login for lookups where there is one, else `conn`."""
    if not lookup_url:
        yield conn
    else:
        with connect(lookup_url) as tables:
            yield tables


async def connect_async(url: str) -> psycopg.AsyncConnection[Any]:
    """Return a secured connection, in autocommit."""
    return await connect_as(psycopg.AsyncConnection, url)


async def connect_as(kind: type[C], url: str) -> C:
    """Return a secured connection of this kind, in autocommit."""
    conn: C = await kind.connect(**parameters(url), autocommit=True)
    conn.prepare_threshold = None
    try:
        with limited(conn, _PATIENCE):
            await secure(conn)
    except BaseException:
        await conn.close()
        raise
    return conn


async def secure(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Pin the session's search_path, and have row security refuse instead of hide. Return True behind a pooler.

    Behind a pooler a setting of the session would stay in a server session that others use too, and be missing in the
    next: each statement then brings it along, in a transaction.
    """
    cursor = await conn.execute(_secure(conn), prepare=False)
    if await cursor.fetchone() is not None:
        return False
    conn.cursor_factory = _SecuredAsyncCursor
    return True


def _secure(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> sql.Composed:
    """No row behind a pooler, which makes up the process id that it hands out at connect."""
    return sql.SQL(
        "SELECT pg_catalog.set_config('search_path', {}, false), pg_catalog.set_config('row_security', 'off', false)"
        " WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {}"
    ).format(sql.Literal(PATH), sql.Literal(conn.info.backend_pid))


class _SecuredCursor(psycopg.Cursor[Any]):
    """Secures the transaction of each statement, for a session that is lent to others between transactions.

    In a transaction that the caller has begun, row security is the caller's to set.
    """

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        if not _is_idle(self):
            super().execute(_PATH)
            return super().execute(*args, **kwargs)
        with self.connection.transaction():
            super().execute(f"{_PATH}; SET LOCAL row_security = off")
            return super().execute(*args, **kwargs)


class _SecuredAsyncCursor(psycopg.AsyncCursor[Any]):
    """As `_SecuredCursor`."""

    policies = "off"

    async def execute(self, *args: Any, **kwargs: Any) -> Self:
        if not _is_idle(self):
            await super().execute(_PATH)
            return await super().execute(*args, **kwargs)
        async with self.connection.transaction():
            await super().execute(f"{_PATH}; SET LOCAL row_security = {self.policies}")
            return await super().execute(*args, **kwargs)


class _UnsubscribeCursor(_SecuredAsyncCursor):
    """The statement changes the application's tables, of which policies may show a part."""

    policies = "on"


def _is_idle(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    return cursor.connection.info.transaction_status == TransactionStatus.IDLE


@contextmanager
def translate_errors(right: str = "grant it (see sql/roles.sql)") -> Iterator[None]:
    """The driver's errors as this package's; the one place where that is done. `right`: what to do where one is missing."""
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName, errors.UndefinedColumn) as exc:
        if "pgherald." in str(exc) or 'schema "pgherald"' in str(exc):
            raise SchemaError(f"{summary(exc)}; run `pgherald install`") from exc
        raise SchemaError(summary(exc)) from exc
    except errors.InsufficientPrivilege as exc:
        if "row-level security" in str(exc):
            right = "see docs/dba.md, Row level security"
        raise SchemaError(f"{summary(exc)}; {right}") from exc
    except _AWAY as exc:
        raise DatabaseUnavailable(f"the database cannot be reached, or cannot serve: {summary(exc)}") from exc


def is_unavailable(exc: BaseException) -> bool:
    """Whether the database, and not the statement, is the trouble."""
    return isinstance(exc, _AWAY)


def lookup_failure(rule: str, exc: psycopg.Error) -> RuleBroken:
    return RuleBroken(f"the lookup of rule {rule} fails: {summary(exc)}")


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler stands between: it makes up the process id that it hands out at connect."""
    return await _session(conn) != conn.info.backend_pid


async def is_shared(conn: psycopg.AsyncConnection[Any], url: str) -> bool:
    """Whether a pooler lends out the server's session behind `conn` to others, from one transaction to the next.

    Asked in a way that leaves nothing behind there: a second client must not get that session, and while it holds one in
    a transaction, and when it has given it back, `conn` must still have its own. Again and again, because others may
    come in between.
    """
    own = await _session(conn)
    async with await psycopg.AsyncConnection.connect(**parameters(url)) as other:
        with limited(other, _PATIENCE):
            for _ in range(_TIMES):
                if await _session(other) == own or await _session(conn) != own:
                    return True
                await other.rollback()
                # The session that was given back last is the one that is lent out next.
                if await _session(conn) != own:
                    return True
    return False


async def _session(conn: psycopg.AsyncConnection[Any]) -> int:
    cursor = await psycopg.AsyncCursor(conn).execute("SELECT pg_catalog.pg_backend_pid()", prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def refuse_standby(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raises `OperationalError`, as libpq does for ``target_session_attrs=primary``."""
    cursor = await conn.execute("SELECT pg_catalog.pg_is_in_recovery()", prepare=False)
    if await cursor.fetchone() == (True,):
        raise OperationalError("connected to a standby; waiting for it to be promoted, or for a primary in its place")


async def _outbox_session(conn: psycopg.AsyncConnection[Any]) -> None:
    pooled = await secure(conn)
    await refuse_standby(conn)
    if pooled:
        # Settings and prepared statements would stay behind in a server session that others use too.
        conn.prepare_threshold = None
    else:
        conn.prepare_threshold = 0
        await conn.execute(f"{_PINNED_PLANS}; {KEEPALIVES}", prepare=False)


async def _lookup_session(conn: psycopg.AsyncConnection[Any]) -> None:
    # The lookup is the operator's own query: its names are found by the path of its role.
    if await is_pooled(conn):
        conn.prepare_threshold = None
    else:
        # Planning anew for each batch takes longer than the look-up of a single key.
        await conn.execute(
            "SET default_transaction_read_only = on; SET plan_cache_mode = force_generic_plan", prepare=False
        )


async def _unsubscribe_session(conn: psycopg.AsyncConnection[Any]) -> None:
    if await secure(conn):
        conn.cursor_factory = _UnsubscribeCursor
    else:
        await conn.execute("RESET row_security", prepare=False)
    await refuse_standby(conn)
    # Its statements come by the day, and may come through a pooler.
    conn.prepare_threshold = None


async def _overview_session(conn: psycopg.AsyncConnection[Any]) -> None:
    read_any_time(conn)
    if await secure(conn):
        conn.prepare_threshold = None
    else:
        # As with the outbox's: whatever the statistics say, no look at it reads the whole of it.
        await conn.execute(f"{_OVERVIEW_PLANS}; {KEEPALIVES}", prepare=False)


def outbox_pool(url: str, patience: float = 5.0) -> Pool:
    """Return the pool for the daemon's queries. `patience` in seconds."""
    return Pool(parameters(url), _outbox_session, 4, patience=patience)


def lookup_pool(url: str) -> Pool:
    """Return the pool for lookups; `url` is `Database.lookups`."""
    return Pool(parameters(url), _lookup_session, 2, patience=_LOOKUP_PATIENCE)


def unsubscribe_pool(url: str) -> Pool:
    """Return the pool for the rules' statements to unsubscribe."""
    return Pool(parameters(url), _unsubscribe_session, 1, patience=_PATIENCE)


def overview_pool(url: str) -> Pool:
    """Return the pool for the page, `top` and the metrics."""
    return Pool(parameters(url), _overview_session, 1, patience=5.0)


@asynccontextmanager
async def opened(*pools: Pool) -> AsyncIterator[None]:
    """Pools connect when they are needed; in the end, all that they have kept is closed."""
    try:
        yield
    finally:
        for pool in pools:
            await pool.close()
