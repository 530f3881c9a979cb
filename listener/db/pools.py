"""The daemon's connection pools: for the outbox, lookups, the rules' statements, bounces and the overview."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
from psycopg import errors
from psycopg.types.json import set_json_loads

from listener.db.connection import (
    KEEPALIVES,
    POLICIES_APPLY,
    READ_COMMITTED,
    PooledAsyncCursor,
    SecuredAsyncCursor,
    parameters,
    refuse_standby,
    secure,
)
from listener.db.moments import read_any_time, read_any_time_or_text
from listener.db.pool import Pool
from listener.db.pooler import is_pooled

# A plan that was made while the outbox was empty, and kept until it was full, took 22 s a claim. These settings leave
# only the index scans. tests/sql/test_claims.py plans each statement for 0, 1 and 20,000 events.
PINNED_PLANS = (
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off; SET enable_sort = off; SET jit = off; SET plan_cache_mode = force_generic_plan; "
    # If the database turns array_nulls off, NULL in an array literal becomes the text 'NULL'.
    "SET array_nulls = on; "
    # A mark must be on disk before the dot is sent, even if the database turns synchronous_commit off.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
OVERVIEW_PLANS = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
# A connection that is in use for longer counts as lost. Our own statements take milliseconds. A lookup is the
# operator's query and may take its time.
_TIMEOUT_S = 5.0
LOOKUP_TIMEOUT_S = 30.0
# Longer than the connection and the statement of `statement_pool` may take.
_BOUNCE_TIMEOUT_S = 20.0
# The loop, the batch writer, the lease and a ring can each use a connection at the same moment.
_MAX_OUTBOX_CONNECTIONS = 4
# A connection that is cut leaves its backend behind until the lock that it waits for is free. The server therefore ends
# such a wait a little earlier than the pool would.
_LOCK_MARGIN_S = 1.0
# `doctor` checks several rules at a time.
_MAX_LOOKUP_CONNECTIONS = 2
# Lookups of batches that run side by side. Half of them are kept free of lookups that wait for a lock.
BATCH_LOOKUP_CONNECTIONS = 4
# A lookup of a batch waits so long for a lock, then its connection serves another rule. `LookupRuns` tries it again. Most
# locks on a table that is in use are held for less.
BATCH_LOCK_TIMEOUT_S = 0.25
# The most sessions of one daemon without `http.listen`: the LISTEN session and the two pools. docs/dba.md, Connections.
MAX_SESSIONS = 1 + _MAX_OUTBOX_CONNECTIONS + BATCH_LOOKUP_CONNECTIONS
# A lookup that writes a time as text or as a day must not depend on the settings of the role or the database.
# Of the styles of intervals, psycopg reads this one only.
_UTC = "SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'"
_BATCH_LOCK_TIMEOUT = f"SET lock_timeout = {1000 * BATCH_LOCK_TIMEOUT_S:.0f}"
# A backend that runs or waits notices within this time that its client is gone.
_NOTICE_LOST_CLIENT = "SET client_connection_check_interval = '1s'"


def outbox_pool(url: str, patience: float = _TIMEOUT_S) -> Pool:
    """Return the pool for the daemon's queries. `patience` in seconds, see `Pool`."""
    return Pool(parameters(url), _outbox_session, _MAX_OUTBOX_CONNECTIONS, patience=patience)


def lookup_pool(url: str) -> Pool:
    """Return the pool for commands that run rules' lookups; `url` is `Database.lookups`."""
    session = partial(_lookup_session, cursors=_LookupCursor, lock_timeout=_lock_timeout(LOOKUP_TIMEOUT_S))
    return Pool(parameters(url), session, _MAX_LOOKUP_CONNECTIONS, patience=LOOKUP_TIMEOUT_S)


def batch_lookup_pool(url: str) -> Pool:
    """Return the daemon's pool for lookups; `url` is `Database.lookups`. Its sessions wait for locks for a moment only."""
    session = partial(_lookup_session, cursors=_BatchLookupCursor, lock_timeout=_BATCH_LOCK_TIMEOUT)
    return Pool(parameters(url), session, BATCH_LOOKUP_CONNECTIONS, patience=LOOKUP_TIMEOUT_S)


def statement_pool(url: str) -> Pool:
    """Return the pool for the rules' statements `unsubscribe` and `bounced`. One connection: they are rare."""
    return Pool(parameters(url), _statement_session, 1, patience=_TIMEOUT_S)


def bounce_pool(url: str) -> Pool:
    """Return the pool that writes bounces into the outbox. Its one connection is in use while a statement runs."""
    return Pool(parameters(url), _bounce_session, 1, patience=_BOUNCE_TIMEOUT_S)


def overview_pool(url: str) -> Pool:
    """Return the pool for the admin page, `top` and the metrics. One connection, so that delivery has the others."""
    return Pool(parameters(url), _overview_session, 1, patience=_TIMEOUT_S)


@asynccontextmanager
async def opened(*pools: Pool) -> AsyncIterator[None]:
    """Close the pools' connections at the end. They connect on first use."""
    try:
        yield
    finally:
        for pool in pools:
            await pool.close()


class _StatementCursor(SecuredAsyncCursor):
    """For statements that change the application's tables, where a policy may rightly show some of the rows."""

    own_settings = POLICIES_APPLY


class _LookupCursor(PooledAsyncCursor):
    """For lookups through a pooler: times are written in UTC."""

    settings = _UTC.replace("SET ", "SET LOCAL ")


class _BatchLookupCursor(_LookupCursor):
    """For lookups of batches through a pooler."""

    settings = f"{_LookupCursor.settings}; {_BATCH_LOCK_TIMEOUT.replace('SET ', 'SET LOCAL ')}"


def _lock_timeout(patience: float) -> str:
    return f"SET lock_timeout = {1000 * (patience - _LOCK_MARGIN_S):.0f}"


async def _notice_lost_client(conn: psycopg.AsyncConnection[Any]) -> None:
    """Make the backend end a statement whose client is gone. Some systems cannot do that, and the server refuses."""
    # A statement of its own: a refusal would undo the settings that come in the same one.
    with suppress(errors.InvalidParameterValue):
        await conn.execute(_NOTICE_LOST_CLIENT, prepare=False)


async def _outbox_session(conn: psycopg.AsyncConnection[Any]) -> None:
    pooled = await secure(conn)
    await refuse_standby(conn)
    if pooled:
        # Settings and prepared statements would stay behind in a server session that other clients use too.
        conn.prepare_threshold = None
    else:
        conn.prepare_threshold = 0
        await conn.execute(f"{_lock_timeout(_TIMEOUT_S)}; {PINNED_PLANS}; {KEEPALIVES}", prepare=False)
        await _notice_lost_client(conn)


async def _lookup_session(conn: psycopg.AsyncConnection[Any], cursors: type[_LookupCursor], lock_timeout: str) -> None:
    # No `secure`: the lookup is the operator's own query, and its names are found by the path of its role.
    # Numbers of a jsonb keep their digits, as those of the type numeric do.
    read_any_time_or_text(conn)
    set_json_loads(partial(json.loads, parse_float=Decimal), conn)
    if await is_pooled(conn):
        conn.prepare_threshold = None
        conn.cursor_factory = cursors
    else:
        # Planning the query again for each batch takes longer than looking up a single key.
        await conn.execute(
            f"{lock_timeout}; SET default_transaction_isolation = '{READ_COMMITTED}'; "
            f"SET default_transaction_read_only = on; SET plan_cache_mode = force_generic_plan; {_UTC}; {KEEPALIVES}",
            prepare=False,
        )
        await _notice_lost_client(conn)


async def _statement_session(conn: psycopg.AsyncConnection[Any]) -> None:
    if await secure(conn):
        conn.cursor_factory = _StatementCursor
    else:
        await conn.execute(f"{_lock_timeout(_TIMEOUT_S)}; RESET row_security; {KEEPALIVES}", prepare=False)
        await _notice_lost_client(conn)
    await refuse_standby(conn)
    # A few statements a day gain nothing from being prepared, and a pooler could lose them.
    conn.prepare_threshold = None


async def _bounce_session(conn: psycopg.AsyncConnection[Any]) -> None:
    read_any_time(conn)
    if not await secure(conn):
        await conn.execute(f"{_lock_timeout(_BOUNCE_TIMEOUT_S)}; {KEEPALIVES}", prepare=False)
        await _notice_lost_client(conn)
    await refuse_standby(conn)
    conn.prepare_threshold = None


async def _overview_session(conn: psycopg.AsyncConnection[Any]) -> None:
    read_any_time(conn)
    if await secure(conn):
        conn.prepare_threshold = None
    else:
        # As for the outbox's pool: no query for the overview reads the whole outbox, whatever the statistics say.
        await conn.execute(f"{_lock_timeout(_TIMEOUT_S)}; {OVERVIEW_PLANS}; {KEEPALIVES}", prepare=False)
        await _notice_lost_client(conn)
