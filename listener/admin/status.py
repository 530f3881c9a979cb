"""The state of the outbox at one moment: counts, workers, size, paused rules, the gate, and foreign locks."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from listener.db import foreign_locks
from listener.db.errors import translate_errors
from listener.db.foreign_locks import LockHolder
from listener.db.queries import load

_QUERIES = load("admin")

# In the order of an event's way.
STATES = ("available", "claimed", "transmitting", "in_doubt", "sent", "skipped", "failed")
# The reasons of sent events.
REPORTS = ("bounced", "complained")


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The figures of `pgherald status`.

    Attributes:
        rules: events by rule and state. Each rule has every state.
        reports: by rule, how many of its sent events `bounced` and `complained`, since it is watched. It has the same rules.
        oldest_due_age_s: seconds since the first event was due whose rule is neither paused nor suspended, or None.
        workers: the rows of the query `workers`, in the order of their registration.
        outbox: `bytes`, `size` for people, `dead_rows` by estimate, and `rows` by count.
        paused: since when, by paused rule.
        suspended: since when a running daemon suspends a rule, and why, by rule.
        asleep: whether the leader holds the gate, so that a commit sends a NOTIFY.
        foreign_locks: sessions that are not a worker's and hold an advisory lock of pgherald.
    """

    rules: dict[str, dict[str, int]]
    reports: dict[str, dict[str, int]]
    oldest_due_age_s: float | None
    workers: list[dict[str, Any]]
    outbox: dict[str, Any]
    paused: dict[str, datetime]
    suspended: dict[str, tuple[datetime, str]]
    asleep: bool
    foreign_locks: list[LockHolder]

    @property
    def available(self) -> int:
        """The number of events that wait, due or not."""
        return sum(counts["available"] for counts in self.rules.values())

    @property
    def in_doubt(self) -> int:
        """The number of events in doubt."""
        return sum(counts["in_doubt"] for counts in self.rules.values())


def read_suspended(conn: psycopg.Connection[Any]) -> dict[str, tuple[datetime, str]]:
    """Return since when running daemons suspend rules, and why, by rule."""
    return {rule: (since, reason) for rule, since, reason in conn.execute(_QUERIES["suspended"])}


def read_status(conn: psycopg.Connection[Any], configured: Iterable[str]) -> OutboxStatus:
    """Return the state of the outbox now. `configured` are the rules that are listed even without events."""
    rules = {name: dict.fromkeys(STATES, 0) for name in configured}
    with translate_errors():
        for rule, state, count in conn.execute(_QUERIES["counts"]):
            rules.setdefault(rule, dict.fromkeys(STATES, 0))[state] = count
        reports = {name: dict.fromkeys(REPORTS, 0) for name in rules}
        for rule, *numbers in conn.execute(_QUERIES["reports"]):
            reports[rule] = dict(zip(REPORTS, numbers, strict=True))
        (oldest,) = conn.execute(_QUERIES["due"]).fetchone() or (None,)
        workers = conn.cursor(row_factory=dict_row).execute(_QUERIES["workers"]).fetchall()
        [outbox] = conn.cursor(row_factory=dict_row).execute(_QUERIES["outbox_size"]).fetchall()
        paused = dict(conn.execute(_QUERIES["paused"]).fetchall())
        suspended = read_suspended(conn)
        (asleep,) = conn.execute(_QUERIES["gate"]).fetchone() or (False,)
        holders = foreign_locks.strangers_now(conn)
    # Every event is in one of the counts, so the sum is exact. The statistics of PostgreSQL are an estimate.
    outbox["rows"] = sum(sum(counts.values()) for counts in rules.values())
    return OutboxStatus(rules, reports, oldest, workers, outbox, paused, suspended, asleep, holders)
