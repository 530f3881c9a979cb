"""Sessions that hold one of pgherald's advisory locks and are not a worker's. Any role can take them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from listener.db.queries import load

_QUERIES = load("admin")
# A worker takes its locks a moment before its row names the session. Only a holder that is found twice is foreign.
_RECHECK_DELAY_S = 0.3


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session, or a prepared transaction, that holds one of our locks.

    `user`, `application` and `gid` are another client's own words: escape them before showing them.
    """

    lock: Literal["gate", "leader", "installer", "presence"]
    #: None for a prepared transaction, which has no process.
    pid: int | None
    user: str
    application: str
    #: The identifier of a prepared transaction.
    gid: str | None

    @property
    def name(self) -> str:
        """Return who it is, in a few words."""
        if self.pid is None:
            return f"the prepared transaction {self.gid} of user {self.user}"
        return f"pid {self.pid} (user {self.user}, application {self.application})"

    @property
    def remedy(self) -> str:
        """Return the statement that ends it."""
        if self.pid is None:
            return f"ROLLBACK PREPARED {sql.Literal(self.gid).as_string(None)}"
        return f"SELECT pg_terminate_backend({self.pid})"


async def holders(conn: psycopg.AsyncConnection[Any]) -> list[LockHolder]:
    """Return the sessions that hold one of our locks now. A worker that is just registering may be among them."""
    async with conn.cursor(row_factory=class_row(LockHolder)) as cursor:
        await cursor.execute(_QUERIES["foreign_locks"])
        return await cursor.fetchall()


async def strangers(look: Callable[[], Awaitable[list[LockHolder]]]) -> list[LockHolder]:
    """Return the holders that two calls of `look`, a moment apart, both return."""
    found = await look()
    if found:
        await asyncio.sleep(_RECHECK_DELAY_S)
        again = await look()
        found = [holder for holder in found if holder in again]
    return found


def strangers_now(conn: psycopg.Connection[Any]) -> list[LockHolder]:
    """Do the same as `strangers`, for a command."""

    def look() -> list[LockHolder]:
        return conn.cursor(row_factory=class_row(LockHolder)).execute(_QUERIES["foreign_locks"]).fetchall()

    found = look()
    if found:
        time.sleep(_RECHECK_DELAY_S)
        again = look()
        found = [holder for holder in found if holder in again]
    return found
