"""The state of rules, workers and events: the one source of the page, of `top` and of the metrics' gauges."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import class_row

from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder, holders, strangers
from listener.db.queries import load
from listener.db.schema import secret
from listener.message_id import make_message_id
from listener.metrics import quantile
from listener.printable import duration

T = TypeVar("T")
# The query `overview_rules` counts no more events of a rule.
MAX_COUNTED = 10_000
# As many as fit beside each other on the page and in an 80 × 24 terminal.
MAX_EVENTS = 12
# The length of the plots. event_stats keeps one row a minute and worker.
MINUTES = 60
# A send takes less with most mail servers.
_SHOW_WAIT_S = 10.0
_QUERIES = {**load("admin"), **load("overview")}


@dataclass(frozen=True, slots=True)
class RuleState:
    """The events of one rule that are not settled, and the reports on those that were sent.

    `available` is counted up to `MAX_COUNTED`. `due_for` is in seconds: since when the first of them is due, or, if
    negative, until it is. `paused_at` is set while an operator pauses the rule, `suspended_at` and `suspended_reason`
    while a running daemon suspends it. `bounced` and `complained` count the sent events of which a bounce or a complaint
    was reported, since the rule is watched.
    """

    name: str
    available: int
    due_for: float | None
    in_doubt: int
    paused_at: datetime | None
    suspended_at: datetime | None
    suspended_reason: str | None
    bounced: int
    complained: int

    @property
    def is_held_back(self) -> bool:
        """Return whether no daemon sends the rule's events, because it is paused or suspended."""
        return self.paused_at is not None or self.suspended_at is not None

    @property
    def due(self) -> str:
        """Return in words when the first event is due: ``12 s ago``, ``in 5 min``, or a dash."""
        if self.due_for is None:
            return duration(None)
        return f"{duration(self.due_for)} ago" if self.due_for >= 0 else f"in {duration(-self.due_for)}"

    @property
    def behind_s(self) -> float:
        """Return since how many seconds the first event is due that a daemon should send; 0 if none is."""
        return 0.0 if self.is_held_back else max(0.0, self.due_for or 0.0)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A row of the table worker: one daemon, as of its last heartbeat.

    `alive` is False if the lease has expired. `breaker` is the reason of an open breaker, else None. `in_flight_for`: seconds
    since the first claim of the events in flight, or None.
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
    in_flight_for: float | None = None


@dataclass(frozen=True, slots=True)
class EventState:
    """One event in a list.

    `at` is the time of settlement; of an event in doubt, the time when its message was handed over. `seconds` is the time from the capture to
    the settlement, or to now. `detail` is the last line of the history; addresses in it are masked. `marked_at` is the
    time of the last mark, if the history has one. `message_id` is the left part of the email's Message-ID.
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
    marked_at: str | None = None
    message_id: str = ""
    person: str | None = None


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
        """Return the available events of all rules, of each counted up to `MAX_COUNTED`."""
        return sum(rule.available for rule in self.rules)

    @property
    def is_counted(self) -> bool:
        """Return whether `available` is exact, because no rule has more events than are counted."""
        return all(rule.available < MAX_COUNTED for rule in self.rules)

    @property
    def in_doubt(self) -> int:
        """Return the events in doubt of all rules."""
        return sum(rule.in_doubt for rule in self.rules)

    @property
    def behind_s(self) -> float:
        """Return since how many seconds the first event is due that a daemon should send; 0 if none is."""
        return max((rule.behind_s for rule in self.rules), default=0.0)

    @property
    def in_flight_for(self) -> float:
        """Return since how many seconds the first event is in flight at a running daemon; 0 if none is."""
        return max((worker.in_flight_for or 0.0 for worker in self.workers if worker.alive), default=0.0)


def in_flight(events: int, seconds: float | None) -> str:
    """Return in words how many events are in flight, and for how long if that is long."""
    since = f", the first for {duration(seconds)}" if seconds is not None and seconds >= _SHOW_WAIT_S else ""
    return f"{events} in flight{since}"


async def read_overview(conn: AsyncConnection[Any]) -> Overview:
    """Run all queries of the overview. Each is bounded by an index and a limit, however many events there are."""

    async def rows(query: str, kind: type[T], **values: Any) -> list[T]:
        async with conn.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(_QUERIES[query], values)
            return await cursor.fetchall()

    async def events(query: str) -> list[EventState]:
        found = await rows(query, EventState, most=MAX_EVENTS)
        return [
            replace(e, at=_handed_over(e), message_id=make_message_id(key, e.rule, e.id, e.captured_at)) for e in found
        ]

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


def _handed_over(event: EventState) -> datetime:
    """Return the time of the last mark. Without one, or if somebody has made it invalid, return the event's own time."""
    try:
        return datetime.fromisoformat(event.marked_at or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return event.at


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
