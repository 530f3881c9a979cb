"""Questions about the other end of a connection: whether a pooler is in between, and whether it lends the session."""

from typing import Any

import psycopg

from listener.db.connection import SETTINGS_TIMEOUT_S, parameters
from listener.db.pool import limited

# Other clients may use the pooler between two of our questions, so that a single try proves nothing.
_MAX_SHARED_TRIES = 20


async def is_pooled(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether a pooler is in between. It makes up the process id that it reports at connect."""
    return await _backend_pid(conn) != conn.info.backend_pid


async def is_shared(conn: psycopg.AsyncConnection[Any], url: str) -> bool:
    """Return whether a pooler lends the server session behind `conn` to other clients between transactions.

    The test leaves nothing behind in that session. A second client opens a transaction and so holds a server session.
    It must not be that of `conn`, and `conn` must keep its own both meanwhile and after the second client has released
    its session. The test is repeated, because other clients may come in between.
    """
    own = await _backend_pid(conn)
    async with await psycopg.AsyncConnection.connect(**parameters(url)) as other:
        with limited(other, SETTINGS_TIMEOUT_S):
            for _ in range(_MAX_SHARED_TRIES):
                if await _backend_pid(other) == own or await _backend_pid(conn) != own:
                    return True
                await other.rollback()
                # A pooler lends the session that was released last first.
                if await _backend_pid(conn) != own:
                    return True
    return False


async def _backend_pid(conn: psycopg.AsyncConnection[Any]) -> int:
    """Return the process id of the server session that runs this very query."""
    cursor = await psycopg.AsyncCursor(conn).execute("SELECT pg_catalog.pg_backend_pid()", prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
