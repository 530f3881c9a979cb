"""The registry of workers in ``pgherald.worker``: this worker's own row, and those of the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from listener import __version__
from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder, holders
from listener.db.pool import Pool
from listener.db.queries import load, run_query
from listener.outbox.registration import Registration
from listener.worker.suspensions import Suspension

QUERIES = load("worker")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another worker.

    Attributes:
        seen_at: When it last renewed its lease, by the server's clock.
        lease: How long its lease lasts, in seconds.
        gone: It had a session with this server and no longer has one.
        leader: It operates the gate.
        lock: Number of its presence lock.
        pid: The server process that holds this lock.
    """

    id: int
    seen_at: datetime
    lease: float
    gone: bool
    leader: bool
    lock: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Rescue:
    """The result of taking over from dead workers.

    Attributes:
        names: Workers that were found dead.
        freed: Number of their events that are available again.
        doubted: Number of their events that are now in doubt.
        due: Number of events in doubt that are now to be sent once more.
    """

    names: list[str] | None
    freed: int
    doubted: int
    due: int


class WorkerRegistry:
    """Queries about workers. Every method raises `DatabaseUnavailable` or `SchemaError`.

    `hold` is called for each write, since a reload may change it. It returns the rules whose events in doubt wait for a
    person, instead of being sent once more.
    """

    def __init__(self, pool: Pool, registration: Registration, hold: Callable[[], list[str]]) -> None:
        self.registration = registration
        self._pool = pool
        self._hold = hold

    @property
    def holds_doubts_of(self) -> list[str]:
        """Return the rules whose events in doubt wait for a person now."""
        return self._hold()

    async def register(self) -> None:
        """Insert a row for this worker and begin its lease."""
        registration = self.registration
        requested_at = registration.clock()
        (row,) = await self._run(
            "register", name=registration.name, version=__version__, lease=registration.lease_s, hold=self._hold()
        )
        registration.worker, registration.presence_lock, registration.utf8 = row
        registration.extend(requested_at)

    async def renew(
        self,
        *,
        has_presence_lock: bool,
        listening: bool,
        leader: bool,
        pid: int | None,
        breaker_reason: str | None,
        suspended: Mapping[str, Suspension],
    ) -> bool:
        """Extend the lease. Return False if another worker has ended it: this one must then register again."""
        requested_at = self.registration.clock()
        rows = await self._run(
            "renew",
            worker=self.registration.worker,
            has_presence_lock=has_presence_lock,
            listening=listening,
            leader=leader,
            pid=pid,
            hold=self._hold(),
            breaker_reason=self.registration.encodable(breaker_reason),
            suspended_rules=list(suspended),
            suspended_since=[each.since for each in suspended.values()],
            suspended_reasons=[self.registration.encodable(each.reason) for each in suspended.values()],
        )
        if rows:
            self.registration.extend(requested_at)
        return bool(rows)

    async def take_retry_request(self) -> bool:
        """Return whether an operator has asked this worker to try the mail server now, and forget the request."""
        return bool(await self._run("take_retry_request", worker=self.registration.worker))

    async def renumber(self) -> int:
        """Give this worker another presence lock and return its number. An ended registration keeps its number."""
        for (lock,) in await self._run("renumber", worker=self.registration.worker):
            self.registration.presence_lock = lock
        return self.registration.presence_lock

    async def unregister(self) -> None:
        """Delete this worker's row."""
        await self._run("unregister", worker=self.registration.worker)

    async def peers(self) -> list[Peer]:
        """Return the other workers."""
        with translate_errors():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Peer)) as cursor:
                await cursor.execute(QUERIES["peers"], {"worker": self.registration.worker})
                return await cursor.fetchall()

    async def rescue(self, dead: Sequence[Peer]) -> Rescue:
        """Take over the events of `dead` workers and of workers that have left.

        A worker that has renewed its lease since it was seen is left alone.
        """
        values = {
            "worker": self.registration.worker,
            "lease": self.registration.lease_s,
            "hold": self._hold(),
            "dead": [peer.id for peer in dead],
            "seen": [peer.seen_at for peer in dead],
        }
        with translate_errors():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Rescue)) as cursor:
                await cursor.execute(QUERIES["rescue"], values)
                rescue = await cursor.fetchone()
                assert rescue is not None
                if rescue.due:
                    await conn.execute(QUERIES["resend"], {"hold": self._hold()})
        return rescue

    async def end_sessions(self, dead: Sequence[Peer]) -> None:
        """Terminate the sessions that are left of dead workers, and with them the locks that they hold."""
        await self._run("end_sessions", pids=[peer.pid for peer in dead], locks=[peer.lock for peer in dead])

    async def foreign_locks(self) -> list[LockHolder]:
        """Return the sessions that hold a lock of ours and are not a worker's."""
        with translate_errors():
            async with self._pool.connection() as conn:
                return await holders(conn)

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, no longer than until another query has succeeded."""
        await self._pool.pause(seconds)

    async def _run(self, query: str, **values: Any) -> list[Any]:
        return await run_query(self._pool, QUERIES[query], values)
