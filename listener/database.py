"""Connections to PostgreSQL, and what their errors mean here."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import InterfaceError, InternalError, OperationalError, errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from listener.errors import ConfigError, DatabaseUnavailable, RuleBroken, SchemaError

# A plan made while the outbox is empty, kept until it is full, took 22 s a claim. These leave only the index scans.
_PINNED_PLANS = (
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off; SET enable_sort = off; SET jit = off"
)
# For the server's end of the connection: a client whose network is cut is gone for it after 10 s, not after two hours,
# and its locks with it.
KEEPALIVES = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 10000"
)
_AWAY = (OperationalError, InterfaceError, InternalError)

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


def parameters(url: str, **defaults: Any) -> dict[str, Any]:
    """libpq's parameters for `url` (empty: libpq's own ``PG*`` variables), with time limits for a peer that is silent.

    Raises:
        ConfigError: `url` is no connection string.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as exc:
        raise ConfigError(f"[database] url: {one_line(exc)}") from exc
    return {
        "application_name": "pgherald",
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **defaults,
        **given,
    }


def one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection for a command, in autocommit."""
    with translated():
        return psycopg.connect(**parameters(url), autocommit=True)


async def connect_async(url: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(**parameters(url), autocommit=True)


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as this package's; the one place where that is done."""
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName, errors.UndefinedColumn) as exc:
        if "pgherald." in str(exc) or 'schema "pgherald"' in str(exc):
            raise SchemaError(f"{one_line(exc)}; run `pgherald install`") from exc
        raise SchemaError(one_line(exc)) from exc
    except errors.InsufficientPrivilege as exc:
        raise SchemaError(f"{one_line(exc)}; grant it (see sql/roles.sql)") from exc
    except (*_AWAY, PoolTimeout, PoolClosed, OSError, TimeoutError) as exc:
        raise DatabaseUnavailable(f"the database cannot be reached, or cannot serve: {one_line(exc)}") from exc


def is_away(exc: BaseException) -> bool:
    """Whether the database, and not the statement, is the trouble."""
    return isinstance(exc, (*_AWAY, PoolTimeout, PoolClosed, OSError, TimeoutError))


def lookup_failure(rule: str, exc: psycopg.Error) -> RuleBroken:
    return RuleBroken(f"the lookup of rule {rule} fails: {one_line(exc)}")


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler stands between: it makes up the process id that it hands out at connect."""
    cursor = await conn.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    return row is None or row[0] != conn.info.backend_pid


async def _outbox_session(conn: psycopg.AsyncConnection[Any]) -> None:
    if await is_pooled(conn):
        # Settings and prepared statements would stay behind in a server session that others use too.
        conn.prepare_threshold = None
    else:
        conn.prepare_threshold = 0
        await conn.execute(f"{_PINNED_PLANS}; {KEEPALIVES}", prepare=False)


async def _lookup_session(conn: psycopg.AsyncConnection[Any]) -> None:
    if await is_pooled(conn):
        conn.prepare_threshold = None
    else:
        await conn.execute("SET default_transaction_read_only = on", prepare=False)


def outbox_pool(url: str) -> Pool:
    return _pool(url, _outbox_session, "outbox", 2, 4)


def lookup_pool(url: str) -> Pool:
    return _pool(url, _lookup_session, "lookup", 1, 2)


def _pool(url: str, configure: Any, name: str, smallest: int, largest: int) -> Pool:
    return AsyncConnectionPool(
        kwargs={**parameters(url), "autocommit": True},
        configure=configure,
        name=name,
        open=False,
        timeout=5,
        max_lifetime=3600,
        reconnect_timeout=30,
        min_size=smallest,
        max_size=largest,
    )


@asynccontextmanager
async def opened(*pools: Pool) -> AsyncIterator[None]:
    """Pools that connect in the background; who needs one waits for it, with a time limit."""
    for pool in pools:
        await pool.open()
    try:
        yield
    finally:
        await asyncio.gather(*(pool.close(timeout=2) for pool in pools))
