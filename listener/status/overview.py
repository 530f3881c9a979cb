"""The state of rules, workers and events: the one source of the page, of `top` and of the metrics' gauges."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row

from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder, holders, strangers
from listener.db.pool import Pool
from listener.db.queries import load
from listener.db.schema import secret
from listener.errors import PgheraldError
from listener.message_id import make_message_id
from listener.metrics import quantile
from listener.outage import Outage

T = TypeVar("T")
# As many as fit beside each other on the page and in an 80 × 24 terminal.
MAX_EVENTS = 12
# The length of the plots. event_stats keeps one row a minute and worker.
MINUTES = 60
# `Outage` wants a delay. It is unused here: the next reader causes the next query.
_RETRY_DELAY_S = 1.0
_QUERIES = {**load("admin"), **load("overview")}


@dataclass(frozen=True, slots=True)
class RuleState:
    """The events of one rule that are not settled, and the reports on those that were sent.

    `available` is counted up to 10000. `oldest` is the age of the oldest of them in seconds, from its
    capture. `paused_at` is set while an operator pauses the rule. `bounced` and `complained` count the sent events of
    which a bounce or a complaint was reported, since the rule is watched.
    """

    name: str
    available: int
    oldest: float | None
    in_doubt: int
    paused_at: datetime | None
    bounced: int
    complained: int


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A row of the table worker: one daemon, as of its last heartbeat.

    `alive` is False if the lease has expired. `breaker` is the reason of an open breaker, else None.
    """

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
    """One event in a list.

    `at` is the time of settlement; of an event in doubt, the time of capture. `seconds` is the time from the capture to
    the settlement, or to now. `detail` is the last line of the history; addresses in it are masked. `message_id` is the
    left part of the email's Message-ID.
    """

    id: int
    rule: str
    key: str
    state: str
    reason: str | None
    attempt: int
    at: datetime
    seconds: float
    detail: str | None
    captured_at: datetime
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Minute:
    """Events that all daemons settled in one minute.

    `median` and `slow` (the 95th percentile) are seconds from the capture to the reply; None if nothing was sent.
    """

    at: datetime
    sent: int
    skipped: int
    failed: int
    median: float | None
    slow: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the outbox at one moment, `now` by the database's clock.

    `asleep` says that the gate is closed: no daemon polls, and the next commit sends NOTIFY. `foreign_lock_holders` are
    sessions that hold one of pgherald's advisory locks and are neither daemons nor installers. `minutes` is the last
    hour, the newest minute last, without gaps. `notify_queue_usage` is a fraction from 0 to 1.
    """

    rules: list[RuleState]
    workers: list[WorkerState]
    asleep: bool
    foreign_lock_holders: list[LockHolder]
    latest: list[EventState]
    failed: list[EventState]
    in_doubt_events: list[EventState]
    minutes: list[Minute]
    notify_queue_usage: float
    now: datetime

    @property
    def available(self) -> int:
        """Return the available events of all rules, of each counted up to 10000."""
        return sum(rule.available for rule in self.rules)

    @property
    def in_doubt(self) -> int:
        """Return the events in doubt of all rules."""
        return sum(rule.in_doubt for rule in self.rules)

    @property
    def oldest(self) -> float | None:
        """Return the age of the oldest available event in seconds, or None if nothing waits."""
        return max((rule.oldest for rule in self.rules if rule.oldest is not None), default=None)


async def read_overview(conn: AsyncConnection[Any]) -> Overview:
    """Run all queries of the overview. Each is bounded by an index and a limit, however many events there are."""

    async def rows(query: str, kind: type[T], **values: Any) -> list[T]:
        async with conn.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(_QUERIES[query], values)
            return await cursor.fetchall()

    async def events(query: str) -> list[EventState]:
        found = await rows(query, EventState, most=MAX_EVENTS)
        return [replace(e, message_id=make_message_id(key, e.rule, e.id, e.captured_at)) for e in found]

    with translate_errors():
        key = await secret(conn)
        (asleep,) = await (await conn.execute(_QUERIES["gate"])).fetchone() or (False,)
        (usage,) = await (await conn.execute(_QUERIES["notify_queue"])).fetchone() or (0.0,)
        (now,) = await (await conn.execute("SELECT now()")).fetchone() or (None,)
        minutes = await (await conn.execute(_QUERIES["minutes"])).fetchall()
        assert now is not None
        return Overview(
            rules=await rows("overview_rules", RuleState),
            workers=await rows("workers", WorkerState),
            asleep=asleep,
            foreign_lock_holders=[h for h in await strangers(lambda: holders(conn)) if h.lock != "installer"],
            latest=await events("latest"),
            failed=await events("failed"),
            in_doubt_events=await events("in_doubt"),
            minutes=_last_hour(minutes, now),
            notify_queue_usage=usage,
            now=now,
        )


def _last_hour(rows: list[Any], now: datetime) -> list[Minute]:
    """Add up the rows of all workers by minute, and fill the minutes without an event."""
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
                quantile(delivery, 0.5),
                quantile(delivery, 0.95),
            )
        )
    return hour


class OverviewCache:
    """Share one overview among all readers: at most one query runs at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._overview: Overview | None = None
        self._read_at = 0.0
        self._refresh: asyncio.Task[None] | None = None
        self._outage = Outage("overview_failed", first=_RETRY_DELAY_S, longest=_RETRY_DELAY_S)

    async def get(self, wait: float, *, fresh: float, stale: float) -> Overview | None:
        """Return an overview that is at most `fresh` seconds old.

        If the database does not answer within `wait` seconds, return the last overview, unless it is older than `stale`
        seconds. Then return None.
        """
        clock = asyncio.get_running_loop().time
        if self._overview is None or clock() - self._read_at >= fresh:
            if self._refresh is None or self._refresh.done():
                self._refresh = asyncio.create_task(self._read())
            await asyncio.wait([self._refresh], timeout=wait)
        return self._overview if self._overview is not None and clock() - self._read_at < stale else None

    @property
    def age(self) -> float:
        """Return the age of the last overview in seconds."""
        return asyncio.get_running_loop().time() - self._read_at

    async def close(self) -> None:
        """Cancel a query that is running."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    async def _read(self) -> None:
        started_at = asyncio.get_running_loop().time()
        try:
            with translate_errors():
                async with self._pool.connection() as conn:
                    self._overview, self._read_at = await read_overview(conn), started_at
        except (PgheraldError, psycopg.Error, OSError) as exc:
            self._outage.failed(exc)
        else:
            self._outage.recovered()
