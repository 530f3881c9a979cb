"""What is going on, at a glance: the one source of the page, of `top` and of the metrics that are read."""

import asyncio
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row

from listener.db.connection import translate_errors
from listener.db.foreign_locks import LockHolder, holders, strangers
from listener.db.pool import Pool
from listener.db.queries import load
from listener.errors import PgheraldError
from listener.metrics import DELIVERY_BUCKETS
from listener.outage import Outage

T = TypeVar("T")
MAX_EVENTS = 12
MINUTES = 60
_QUERIES = {**load("admin"), **load("overview")}


@dataclass(frozen=True, slots=True)
class RuleState:
    """`available` and `due` (of them, now) are counted up to 10000; `oldest` in seconds since the capture."""

    name: str
    available: int
    due: int
    oldest: float | None
    in_doubt: int
    paused_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerState:
    id: int
    name: str
    version: str
    started_at: datetime
    seen_seconds_ago: float
    alive: bool
    listening: bool
    breaker: str | None
    in_flight: int
    leader: bool


@dataclass(frozen=True, slots=True)
class EventState:
    """`detail`: the last line of its history; addresses in it are masked. `at`: settled, or, in doubt, captured."""

    id: int
    rule: str
    key: str
    state: str
    reason: str | None
    attempt: int
    at: datetime
    seconds: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class Minute:
    """What all daemons settled in one minute. `median`, `slow` (19 of 20 were faster) in seconds; None where none was sent."""

    at: datetime
    sent: int
    skipped: int
    failed: int
    median: float | None
    slow: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """`minutes`: the last hour, the newest last, those without an event included.

    `strangers`: other sessions that hold a lock of ours, installers not among them.
    """

    rules: list[RuleState]
    workers: list[WorkerState]
    asleep: bool
    strangers: list[LockHolder]
    latest: list[EventState]
    failed: list[EventState]
    in_doubt_events: list[EventState]
    minutes: list[Minute]
    notify_queue_usage: float
    now: datetime

    @property
    def available(self) -> int:
        return sum(rule.available for rule in self.rules)

    @property
    def in_doubt(self) -> int:
        return sum(rule.in_doubt for rule in self.rules)

    @property
    def oldest(self) -> float | None:
        return max((rule.oldest for rule in self.rules if rule.oldest is not None), default=None)


async def look(conn: AsyncConnection[Any]) -> Overview:
    """Ask for all of it. Cheap: bounded queries on indexes."""

    async def rows(query: str, kind: type[T], **values: Any) -> list[T]:
        async with conn.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(_QUERIES[query], values)
            return await cursor.fetchall()

    with translate_errors():
        (asleep,) = await (await conn.execute(_QUERIES["gate"])).fetchone() or (False,)
        (usage,) = await (await conn.execute(_QUERIES["notify_queue"])).fetchone() or (0.0,)
        (now,) = await (await conn.execute("SELECT now()")).fetchone() or (None,)
        minutes = await (await conn.execute(_QUERIES["minutes"])).fetchall()
        assert now is not None
        return Overview(
            rules=await rows("overview_rules", RuleState),
            workers=await rows("workers", WorkerState),
            asleep=asleep,
            strangers=[h for h in await strangers(lambda: holders(conn)) if h.lock != "installer"],
            latest=await rows("latest", EventState, most=MAX_EVENTS),
            failed=await rows("failed", EventState, most=MAX_EVENTS),
            in_doubt_events=await rows("in_doubt", EventState, most=MAX_EVENTS),
            minutes=_hour(minutes, now),
            notify_queue_usage=usage,
            now=now,
        )


def _hour(rows: list[Any], now: datetime) -> list[Minute]:
    by_minute: dict[datetime, list[Any]] = {}
    for row in rows:
        by_minute.setdefault(row[0], []).append(row)
    newest = now.replace(second=0, microsecond=0)
    hour = []
    for back in reversed(range(MINUTES)):
        at = newest - timedelta(minutes=back)
        group = by_minute.get(at, [])
        delivery = [sum(counts) for counts in zip(*(row[4] for row in group), strict=True)]
        hour.append(
            Minute(
                at,
                sum(row[1] for row in group),
                sum(row[2] for row in group),
                sum(row[3] for row in group),
                _quantile(delivery, 0.5),
                _quantile(delivery, 0.95),
            )
        )
    return hour


def _quantile(counts: list[int], share: float) -> float | None:
    """From how many took up to each of `DELIVERY_BUCKETS` and longer than the last, each by itself; within one, evenly."""
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    limits = (0.0, *DELIVERY_BUCKETS, 2 * DELIVERY_BUCKETS[-1])
    upto = [sum(counts[: i + 1]) for i in range(len(counts))]
    i = bisect_left(upto, wanted)
    before = upto[i] - counts[i]
    return limits[i] + (limits[i + 1] - limits[i]) * (wanted - before) / counts[i]


class OverviewCache:
    """The overview, asked for once however many look."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seen: Overview | None = None
        self._at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._outage = Outage("overview_failed", first=1.0, longest=1.0)

    async def get(self, wait: float, *, fresh: float, stale: float) -> Overview | None:
        """One not older than `fresh`; where the database does not answer within `wait`, the last, up to `stale`.

        All in seconds. None: there is none.
        """
        clock = asyncio.get_running_loop().time
        if self._seen is None or clock() - self._at >= fresh:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.wait([self._looking], timeout=wait)
        return self._seen if self._seen is not None and clock() - self._at < stale else None

    @property
    def age(self) -> float:
        """Seconds since the overview was asked for that was given last."""
        return asyncio.get_running_loop().time() - self._at

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self) -> None:
        at = asyncio.get_running_loop().time()
        try:
            async with self._pool.connection() as conn:
                self._seen, self._at = await look(conn), at
        except (PgheraldError, psycopg.Error, OSError) as exc:
            self._outage.failed(exc)
        else:
            self._outage.recovered()
