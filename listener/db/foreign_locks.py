"""Sessions that hold an advisory lock of pgherald's and are no worker's: whoever may connect may take any of them."""

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
# A worker's session takes its locks a moment before the worker's row names it.
_AGAIN_S = 0.3


@dataclass(frozen=True, slots=True)
class LockHolder:
    """One session, or one prepared transaction `gid`, and the lock that it holds.

    `user`, `application` and `gid` are what a stranger calls himself: not to be shown as they are.
    """

    lock: Literal["gate", "leader", "installer", "presence"]
    pid: int | None
    user: str
    application: str
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
    """Return the strangers there are now; a worker that is just registering may be among them."""
    async with conn.cursor(row_factory=class_row(LockHolder)) as cursor:
        await cursor.execute(_QUERIES["foreign_locks"])
        return await cursor.fetchall()


async def strangers(look: Callable[[], Awaitable[list[LockHolder]]]) -> list[LockHolder]:
    """Return those whom two looks find, a moment apart."""
    found = await look()
    if found:
        await asyncio.sleep(_AGAIN_S)
        again = await look()
        found = [holder for holder in found if holder in again]
    return found


def strangers_now(conn: psycopg.Connection[Any]) -> list[LockHolder]:
    """As `strangers`, for a command."""

    def look() -> list[LockHolder]:
        return conn.cursor(row_factory=class_row(LockHolder)).execute(_QUERIES["foreign_locks"]).fetchall()

    found = look()
    if found:
        time.sleep(_AGAIN_S)
        again = look()
        found = [holder for holder in found if holder in again]
    return found
