"""The outbox as a worker uses it: claim, record, release; and the worker's own lease."""

import itertools
import json
import os
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from listener import __version__
from listener.address import mask
from listener.config.keys import array_literal
from listener.db.connection import translate_errors
from listener.db.foreign_locks import LockHolder, holders
from listener.db.pool import Pool
from listener.db.queries import load
from listener.errors import BadData
from listener.limits import MAX_KEY_BYTES, MAX_MESSAGE_BYTES
from listener.logs import log
from listener.outbox.event import Event, Mark, Settlement, StoredMessage, compress, decompress

QUERIES = load("outbox")
QUERIES["record"] = (
    f"-- name: record\nWITH settled AS ({QUERIES['settle']}), marked AS ({QUERIES['mark']})\n"  # noqa: S608 - of our own files
    "SELECT id, claim FROM settled UNION ALL SELECT id, claim FROM marked"
)

# What one event's data does to a statement, on the server or when its answer is read; not what ends the connection.
_DATA_ERRORS = (psycopg.DataError, psycopg.IntegrityError, UnicodeError)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another worker. `lease` in seconds; `gone`: it had a session with this server, and has it no more.

    `lock`: the number of the lock that shows it; `pid`: the server's process that holds it.
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
    """Workers found dead, and how many of their events went back or came into doubt.

    `due`: events in doubt that are to be sent once more now. `peers`: the other workers, before the burial.
    """

    names: list[str] | None
    freed: int
    doubted: int
    due: int
    peers: int


@dataclass(frozen=True, slots=True)
class EventStats:
    """How many events of a rule were settled. `delivery`: mails, by which of `DELIVERY_BUCKETS` they took."""

    rule: str
    sent: int
    skipped: int
    failed: int
    delivery: tuple[int, ...]

    def __sub__(self, before: "EventStats") -> "EventStats":
        return EventStats(
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
        self.presence_lock = 0
        self._utf8 = True
        self._leased_until = 0.0
        self._claims = itertools.count(1)

    def is_leased(self, worker: int) -> bool:
        """Whether the lease is still good under which `worker`, this one or what it was before, claimed an event.

        By a clock that runs while the machine or the process is stopped. Nothing may be sent once it is not: another
        worker may have taken the event over, and a new registration does not bring it back.
        """
        return worker == self.worker and time.clock_gettime(time.CLOCK_BOOTTIME) < self._leased_until

    async def register(self) -> int:
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        (row,) = await self._run("register", name=self.name, version=__version__, lease=self._lease)
        self.worker, self.presence_lock, self._utf8 = row
        self._extend(begun)
        return self.worker

    async def renew(
        self, *, has_presence_lock: bool, listening: bool, leader: bool, pid: int | None, breaker_reason: str | None
    ) -> bool:
        """Extend the lease. False: another worker has declared this one dead, and a new registration is due."""
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        rows = await self._run(
            "renew",
            worker=self.worker,
            has_presence_lock=has_presence_lock,
            listening=listening,
            leader=leader,
            pid=pid,
            breaker_reason=self._encodable(breaker_reason),
        )
        if rows:
            self._extend(begun)
        return bool(rows)

    def _extend(self, begun: float) -> None:
        # From before the request, and a tenth short: the lease must end here before it ends there.
        self._leased_until = begun + 0.9 * self._lease

    async def renumber(self) -> int:
        """Give this worker another lock, and return its number. One that was declared dead keeps the number it had."""
        for (lock,) in await self._run("renumber", worker=self.worker):
            self.presence_lock = lock
        return self.presence_lock

    async def foreign_locks(self) -> list[LockHolder]:
        """Return the sessions that hold a lock of ours and are no worker's."""
        with translate_errors():
            async with self._pool.connection() as conn:
                return await holders(conn)

    async def unregister(self) -> None:
        await self._run("unregister", worker=self.worker)

    async def peers(self) -> list[Peer]:
        with translate_errors():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Peer)) as cursor:
                await cursor.execute(QUERIES["peers"], {"worker": self.worker})
                return await cursor.fetchall()

    async def rescue(self, dead: Sequence[Peer]) -> Rescue:
        """Take over from these workers, but for one that has renewed its lease meanwhile, and from any that left."""
        values = {
            "worker": self.worker,
            "lease": self._lease,
            "hold": self.hold,
            "dead": [peer.id for peer in dead],
            "seen": [peer.seen_at for peer in dead],
        }
        with translate_errors():
            async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Rescue)) as cursor:
                await cursor.execute(QUERIES["rescue"], values)
                rescue = await cursor.fetchone()
                assert rescue is not None
                if rescue.due:
                    await conn.execute(QUERIES["resend"])
        return rescue

    async def end_sessions(self, dead: Sequence[Peer]) -> None:
        """End what sessions are left of buried workers, and with them the locks that they hold."""
        await self._run("end_sessions", pids=[peer.pid for peer in dead], locks=[peer.lock for peer in dead])

    async def release_lost_claims(self, known: Collection[tuple[int, int]]) -> int:
        """Give back what this worker claimed without hearing of it: all but what has one of these fences. How many."""
        fences = {"ids": [number for number, _ in known], "claims": [claim for _, claim in known]}
        return len(await self._run("release_lost_claims", worker=self.worker, **fences))

    async def pause(self, seconds: float) -> None:
        """Wait before the next try; no longer than until another query has worked."""
        await self._pool.pause(seconds)

    async def claim(self, limit: int, rules: Sequence[str]) -> list[Event]:
        """Up to `limit` due events, which no other worker can claim until they are settled or this worker is dead.

        An event that cannot be read fails the statement for all. They are then claimed one by one, and that one
        comes with its `flaw`.
        """
        number = next(self._claims)
        with translate_errors():
            try:
                return await self._claim(number, limit, rules)
            except _DATA_ERRORS:
                # Where the answer came and could not be read, the claim was made.
                await self._run("unclaim", worker=self.worker, number=number)
                due = await self._run("due", limit=limit, rules=array_literal(rules))
                return [event for (number,) in due for event in await self._claim_one(number, rules)]

    async def _claim_one(self, event_id: int, rules: Sequence[str]) -> list[Event]:
        number = next(self._claims)
        try:
            return await self._claim(number, 1, rules, only=event_id)
        except _DATA_ERRORS as exc:
            return await self._claim_unreadable(event_id, number, _error_kind(exc))

    async def _claim(self, number: int, limit: int, rules: Sequence[str], *, only: int | None = None) -> list[Event]:
        values = {
            "worker": self.worker,
            "number": number,
            "name": self.name,
            # A list would be looked at element by element, in Python.
            "rules": array_literal(rules),
            "limit": limit,
            "only": only,
        }
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Event)) as cursor:
            await cursor.execute(QUERIES["claim"], values)
            events = await cursor.fetchall()
        long = [event for event in events if event.key is None]
        if long:
            events = [event for event in events if event.key is not None]
            for event in long:
                events += await self._claim_unreadable(event.id, number)
        return sorted(events, key=lambda event: event.id)

    async def _claim_unreadable(self, event_id: int, number: int, kind: str | None = None) -> list[Event]:
        """`kind` of error that `claim` fails with. Empty where the event has gone meanwhile."""
        values = {"worker": self.worker, "number": number, "name": self.name, "id": event_id}
        async with self._pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(QUERIES["claim_unreadable"], values)
            row = await cursor.fetchone()
        if row is None:
            return []
        octets = row.pop("octets")
        if octets > MAX_KEY_BYTES:
            flaw = "too_large", f"the key has {octets} octets; at most {MAX_KEY_BYTES} are read"
        else:
            flaw = "unreadable", mask(f"the event cannot be read ({kind}); its key is {row['key']}")
        return [Event(**row, flaw=flaw)]

    async def stored_message(self, event: Event) -> StoredMessage | None:
        """What was kept of the event's first sending. None: the event has been taken up by somebody else.

        Raises:
            BadData: it cannot be read.
        """
        try:
            rows = await self._run("stored", id=event.id, claim=event.claim, most=2 * MAX_MESSAGE_BYTES)
        except _DATA_ERRORS as exc:
            raise BadData("unreadable", f"the message that was kept cannot be read ({_error_kind(exc)})") from exc
        if not rows:
            return None
        recipient, message = rows[0]
        if recipient is None or message is None:
            raise BadData("unreadable", "the message that was kept is missing, or larger than any that was sent")
        return StoredMessage(recipient, decompress(message))

    async def record(
        self, settlements: Sequence[Settlement], marks: Sequence[Mark], *, again: bool = False
    ) -> set[tuple[int, int]]:
        """Write outcomes and marks durably; gives the fences of those that were still this worker's to write.

        Not the ids: a worker that was declared dead unawares may have one event in hand under two claims.

        `again`: it was tried before, and may have been written although no answer came.
        """
        try:
            return await self._record(settlements, marks, again=again)
        except _DATA_ERRORS as exc:
            return await self._record_by_halves(settlements, marks, again, exc)

    async def _record_by_halves(
        self, settlements: Sequence[Settlement], marks: Sequence[Mark], again: bool, exc: Exception
    ) -> set[tuple[int, int]]:
        """By halves, until the event is alone that the database refuses to have written."""
        if len(settlements) + len(marks) > 1:
            half, rest = len(settlements) // 2, len(marks) // 2
            if len(settlements) == 1:
                half, rest = 1, 0
            first = await self.record(settlements[:half], marks[:rest], again=again)
            return first | await self.record(settlements[half:], marks[rest:], again=again)
        for settlement in settlements:
            if settlement.history_entry is not None:
                # Without its words and its attempt: how it ended is what matters.
                log.error("event_detail_lost", event_id=settlement.event.id, error=_error_kind(exc))
                return await self.record(
                    [replace(settlement, history_entry=None, detail=None, uses_attempt=False)], (), again=again
                )
        subjects: list[Settlement | Mark] = [*settlements, *marks]
        for subject in subjects:
            log.error("event_not_written", event_id=subject.event.id, rule=subject.event.rule, error=_error_kind(exc))
        return set()

    async def _record(
        self, settlements: Sequence[Settlement], marks: Sequence[Mark], *, again: bool
    ) -> set[tuple[int, int]]:
        # As JSON: of an array for each column, psycopg looks at every element in Python, which takes three times as long.
        values: dict[str, object] = {}
        if settlements:
            values |= {"settled": _json(self._written(each) for each in settlements), "hold": self.hold}
        if marks:
            marked = _json({"id": m.event.id, "claim": m.event.claim, "recipient": m.recipient} for m in marks)
            values |= {"marked": marked, "messages": [compress(mark.message) for mark in marks]}
        rows = await self._run("record" if settlements and marks else "settle" if settlements else "mark", **values)
        if again and settlements:
            rows += await self._run("find_settled", settled=values["settled"])
        return {(row[0], row[1]) for row in rows}

    async def waiting(self, rules: Sequence[str]) -> tuple[int, int, int]:
        """How many events are available, due or not; how many in doubt; how many wait because their rule is paused."""
        (row,) = await self._run("waiting", rules=list(rules))
        return row[0], row[1], row[2]

    async def add_stats(self, news: Sequence[EventStats]) -> None:
        """Add to this minute's counts."""
        await self._run(
            "add_stats",
            rules=[tally.rule for tally in news],
            sent=[tally.sent for tally in news],
            skipped=[tally.skipped for tally in news],
            failed=[tally.failed for tally in news],
            delivery=["{" + ",".join(map(str, tally.delivery)) + "}" for tally in news],
        )

    def _written(self, settlement: Settlement) -> dict[str, object]:
        event = settlement.event
        return {
            "id": event.id,
            "claim": event.claim,
            "state": settlement.state,
            "reason": settlement.reason,
            "uses_attempt": int(settlement.uses_attempt),
            "delay": settlement.delay,
            "history_entry": settlement.history_entry,
            "detail": self._encodable(settlement.detail),
        }

    def _encodable(self, text: str | None) -> str | None:
        """What a server said, in letters that the database has: what it cannot hold would never be written."""
        if text is None:
            return None
        encoding = "utf-8" if self._utf8 else "ascii"
        return text.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)

    async def ring(self, payload: str) -> None:
        with translate_errors():
            async with self._pool.connection() as conn:
                await conn.execute("SELECT pg_notify('pgherald', %s)", (payload,))

    async def _run(self, query: str, **values: Any) -> list[Any]:
        with translate_errors():
            async with self._pool.connection() as conn:
                cursor = await conn.execute(QUERIES[query], values)
                return await cursor.fetchall() if cursor.description else []


def _json(rows: Iterable[dict[str, object]]) -> str:
    # In its own letters: an escape is refused by a database that has no encoding.
    return json.dumps(list(rows), ensure_ascii=False)


def _error_kind(exc: Exception) -> str:
    """What went wrong, without the words of it: they may quote the row."""
    state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
    return type(exc).__name__ + (f", SQLSTATE {state}" if state else "")
