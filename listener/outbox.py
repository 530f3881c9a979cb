"""The outbox as a worker uses it: claim, record, release; and the worker's own lease."""

import itertools
import json
import os
import socket
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import class_row

from listener import __version__
from listener.database import translated
from listener.locks import Holder, holders
from listener.pool import Pool
from listener.queries import load
from listener.rules import array_literal

QUERIES = load("outbox")
QUERIES["record"] = (
    f"-- name: record\nWITH settled AS ({QUERIES['settle']}), marked AS ({QUERIES['mark']})\n"  # noqa: S608 - of our own files
    "SELECT id, claim FROM settled UNION ALL SELECT id, claim FROM marked"
)

_SHORT = 1000

State = Literal["available", "in_doubt", "sent", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Event:
    """A claimed event. `claim` is its fence: whatever is written about it names it."""

    id: int
    rule: str
    key: str
    attempt: int
    doubts: int
    captured_at: datetime
    age: float
    claim: int
    recipient: str | None
    message: bytes | None
    covered: str | None
    traceparent: str | None = None

    @property
    def fence(self) -> tuple[int, int]:
        return self.id, self.claim

    @property
    def kept(self) -> bytes | None:
        """The bytes of the first sending, if that is in doubt."""
        return zlib.decompress(self.message) if self.message is not None else None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be written about an event. `delay` in seconds, for `available` and `in_doubt`."""

    event: Event
    state: State
    what: str | None = None
    reason: str | None = None
    detail: str | None = None
    counts: bool = False
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The intent to send these bytes to this recipient, written before the final dot can be."""

    event: Event
    recipient: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """Another worker. `lease` in seconds; `gone`: it had a session with this server, and has it no more.

    `lock`: the number of the lock that shows it; `pid`: the server's process that holds it.
    """

    id: int
    seen_at: datetime
    lease: float
    gone: bool
    leading: bool
    lock: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Burial:
    """Workers found dead, and how many of their events went back or came into doubt.

    `due`: events in doubt that are to be sent once more now. `peers`: the other workers, before the burial.
    """

    names: list[str] | None
    freed: int
    doubted: int
    due: int
    peers: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How many events of a rule were settled. `delivery`: mails, by which of `DELIVERY_BUCKETS` they took."""

    rule: str
    sent: int
    skipped: int
    failed: int
    delivery: tuple[int, ...]

    def __sub__(self, before: "Tally") -> "Tally":
        return Tally(
            self.rule,
            self.sent - before.sent,
            self.skipped - before.skipped,
            self.failed - before.failed,
            tuple(new - old for new, old in zip(self.delivery, before.delivery, strict=True)),
        )

    def __bool__(self) -> bool:
        return any((self.sent, self.skipped, self.failed, *self.delivery))


class Outbox:
    """Queries of one worker. Every method raises `DatabaseUnavailable` or `SchemaError`."""

    def __init__(self, pool: Pool, *, lease: float, hold: bool) -> None:
        self._pool = pool
        self._lease = lease
        self.hold = hold
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.worker = 0
        self.lock = 0
        self._utf8 = True
        self._until = 0.0
        self._claims = itertools.count(1)

    def leased(self, worker: int) -> bool:
        """Whether the lease is still good under which `worker`, this one or what it was before, claimed an event.

        By a clock that runs while the machine or the process is stopped. Nothing may be sent once it is not: another
        worker may have taken the event over, and a new registration does not bring it back.
        """
        return worker == self.worker and time.clock_gettime(time.CLOCK_BOOTTIME) < self._until

    async def register(self) -> int:
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        (row,) = await self._run("register", name=self.name, version=__version__, lease=self._lease)
        self.worker, self.lock, self._utf8 = row
        self._extend(begun)
        return self.worker

    async def renew(
        self, *, locked: bool, listening: bool, leading: bool, pid: int | None, breaker: str | None
    ) -> bool:
        """Extend the lease. False: another worker has declared this one dead, and a new registration is due."""
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        rows = await self._run(
            "renew",
            worker=self.worker,
            locked=locked,
            listening=listening,
            leading=leading,
            pid=pid,
            breaker=breaker,
        )
        if rows:
            self._extend(begun)
        return bool(rows)

    def _extend(self, begun: float) -> None:
        # From before the request, and a tenth short: the lease must end here before it ends there.
        self._until = begun + 0.9 * self._lease

    async def renumber(self) -> int:
        """Give this worker another lock, and return its number. One that was declared dead keeps the number it had."""
        for (lock,) in await self._run("renumber", worker=self.worker):
            self.lock = lock
        return self.lock

    async def foreign_locks(self) -> list[Holder]:
        """Return the sessions that hold a lock of ours and are no worker's."""
        with translated():
            async with self._pool.connection() as conn:
                return await holders(conn)

    async def leave(self) -> None:
        await self._run("leave", worker=self.worker)

    async def peers(self) -> list[Peer]:
        with translated():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Peer)) as cursor:
                await cursor.execute(QUERIES["peers"], {"worker": self.worker})
                return await cursor.fetchall()

    async def bury(self, dead: Sequence[Peer]) -> Burial:
        """Take over from these workers, but for one that has renewed its lease meanwhile, and from any that left."""
        values = {
            "worker": self.worker,
            "lease": self._lease,
            "hold": self.hold,
            "dead": [peer.id for peer in dead],
            "seen": [peer.seen_at for peer in dead],
        }
        with translated():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Burial)) as cursor:
                await cursor.execute(QUERIES["bury"], values)
                burial = await cursor.fetchone()
                assert burial is not None
                if burial.due:
                    await conn.execute(QUERIES["resend"])
        return burial

    async def end_sessions(self, dead: Sequence[Peer]) -> None:
        """End what sessions are left of buried workers, and with them the locks that they hold."""
        await self._run("end_sessions", pids=[peer.pid for peer in dead], locks=[peer.lock for peer in dead])

    async def disown(self, known: Collection[tuple[int, int]]) -> int:
        """Give back what this worker claimed without hearing of it: all but what has one of these fences. How many."""
        fences = {"ids": [number for number, _ in known], "claims": [claim for _, claim in known]}
        return len(await self._run("disown", worker=self.worker, **fences))

    async def pause(self, seconds: float) -> None:
        """Wait before the next try; no longer than until another query has worked."""
        await self._pool.pause(seconds)

    async def claim(self, limit: int, rules: Sequence[str]) -> list[Event]:
        """Up to `limit` due events, which no other worker can claim until they are settled or this worker is dead."""
        with translated():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Event)) as cursor:
                await cursor.execute(
                    QUERIES["claim"],
                    {
                        "worker": self.worker,
                        "number": next(self._claims),
                        "name": self.name,
                        # A list would be looked at element by element, in Python.
                        "rules": array_literal(rules),
                        "limit": limit,
                    },
                )
                return sorted(await cursor.fetchall(), key=lambda event: event.id)

    async def record(
        self, settlements: Sequence[Settlement], marks: Sequence[Mark], *, again: bool = False
    ) -> set[tuple[int, int]]:
        """Write outcomes and marks durably; gives the fences of those that were still this worker's to write.

        Not the ids: a worker that was declared dead unawares may have one event in hand under two claims.

        `again`: it was tried before, and may have been written although no answer came.
        """
        # As JSON: of an array for each column, psycopg looks at every element in Python, which takes three times as long.
        values: dict[str, object] = {}
        if settlements:
            values |= {"settled": _json(self._written(each) for each in settlements), "hold": self.hold}
        if marks:
            marked = _json({"id": m.event.id, "claim": m.event.claim, "recipient": m.recipient} for m in marks)
            values |= {"marked": marked, "messages": [_packed(mark.message) for mark in marks]}
        rows = await self._run("record" if settlements and marks else "settle" if settlements else "mark", **values)
        if again and settlements:
            rows += await self._run("recorded", settled=values["settled"])
        return {(row[0], row[1]) for row in rows}

    async def waiting(self, rules: Sequence[str]) -> tuple[int, int, int]:
        """How many events are available, due or not; how many in doubt; how many wait because their rule is paused."""
        (row,) = await self._run("waiting", rules=list(rules))
        return row[0], row[1], row[2]

    async def tally(self, news: Sequence[Tally]) -> None:
        """Add to this minute's counts."""
        await self._run(
            "tally",
            rules=[tally.rule for tally in news],
            sent=[tally.sent for tally in news],
            skipped=[tally.skipped for tally in news],
            failed=[tally.failed for tally in news],
            delivery=["{" + ",".join(map(str, tally.delivery)) + "}" for tally in news],
        )

    def _written(self, settlement: Settlement) -> dict[str, object]:
        event, detail = settlement.event, settlement.detail
        if detail is not None and not self._utf8:
            # What a server said, in letters that the database has: what it cannot hold would never be settled.
            detail = detail.encode("ascii", "backslashreplace").decode("ascii")
        return {
            "id": event.id,
            "claim": event.claim,
            "state": settlement.state,
            "reason": settlement.reason,
            "counts": int(settlement.counts),
            "delay": settlement.delay,
            "what": settlement.what,
            "detail": detail,
        }

    async def ring(self, payload: str) -> None:
        with translated():
            async with self._pool.connection() as conn:
                await conn.execute("SELECT pg_notify('pgherald', %s)", (payload,))

    async def _run(self, query: str, **values: Any) -> list[Any]:
        with translated():
            async with self._pool.connection() as conn:
                cursor = await conn.execute(QUERIES[query], values)
                return await cursor.fetchall() if cursor.description else []


def _json(rows: Iterable[dict[str, object]]) -> str:
    # In its own letters: an escape is refused by a database that has no encoding.
    return json.dumps(list(rows), ensure_ascii=False)


def _packed(message: bytes) -> bytes:
    """A zlib stream (RFC 1950), in which what is short stands as it is (RFC 1951 3.2.4): packing it takes longer than it saves."""
    size = len(message)
    if size < _SHORT:
        header = b"\x78\x01\x01" + size.to_bytes(2, "little") + (0xFFFF - size).to_bytes(2, "little")
        return header + message + zlib.adler32(message).to_bytes(4, "big")
    # With a window of 8 KB and little memory: a mail is no longer than a few, and the usual 256 KB cost more than all else.
    packer = zlib.compressobj(1, wbits=13, memLevel=6)
    return packer.compress(message) + packer.flush()
