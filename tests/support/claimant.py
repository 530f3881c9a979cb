"""The queries of the outbox and of the registry of workers, as one worker's session sends them."""

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from listener.outbox.store import QUERIES as OUTBOX_QUERIES
from listener.worker.registry import QUERIES as WORKER_QUERIES

QUERIES = {**OUTBOX_QUERIES, **WORKER_QUERIES}
RULE = "dateplan_verified"


class Claimant:
    def __init__(
        self, conn: psycopg.Connection[Any], name: str, *, lease: float = 10.0, locked: bool = False, hold: bool = False
    ) -> None:
        self.conn = conn
        self.name = name
        self.claims = 0
        self.hold = hold
        [row] = self._run("register", name=name, version="0", lease=lease, hold=self._held(hold))
        self.id: int = row["id"]
        self.lock: int = row["lock"]
        if locked:
            conn.execute("SELECT pg_advisory_lock(726355, %s)", (self.lock,))
            self.renew(has_presence_lock=True)

    def renew(self, *, has_presence_lock: bool = False) -> bool:
        pid = self.conn.info.backend_pid if has_presence_lock else None
        values = {
            "has_presence_lock": has_presence_lock,
            "pid": pid,
            "leader": False,
            "listening": False,
            "breaker_reason": None,
            "suspended_rules": [],
            "suspended_since": [],
            "suspended_reasons": [],
            "hold": self._held(self.hold),
        }
        return bool(self._run("renew", worker=self.id, **values))

    def claim(
        self,
        limit: int = 100,
        rules: Sequence[str] = (RULE,),
        *,
        window: float | None = None,
        shares: Sequence[int] | None = None,
        starts: Sequence[float] | None = None,
        batch: int = 0,
    ) -> list[DictRow]:
        """Claim events. `batch`: so many changes are taken over, even if fewer can be claimed."""
        self.claims += 1
        values = {
            "number": self.claims,
            "name": self.name,
            "rules": list(rules),
            "shares": list(shares or [1] * len(rules)),
            "starts": list(starts or [0.0] * len(rules)),
            "window": window,
            "only": None,
            "limit": limit,
            "start": "(0,0)",
            "batch": batch,
        }
        rows = [row for row in self._run("claim", worker=self.id, **values) if row["id"] is not None]
        return sorted(rows, key=lambda row: row["id"])

    def spread(self, event: DictRow, *people: str) -> list[DictRow]:
        """Spread the event to these people. Return nothing if this claim no longer owned it."""
        row = {"id": event["id"], "claim": event["claim"], "people": people}
        return self._run("spread", spread=json.dumps([row]))

    def stored(self, event: DictRow) -> tuple[str, bytes]:
        """Return the recipient and the bytes that were kept of the event's first sending."""
        [row] = self._run("stored", id=event["id"], claim=event["claim"], most=1000)
        return row["recipient"], row["message"]

    def settle(
        self, event: DictRow, state: str, *, reason: str | None = None, uses_attempt: bool = False, delay: float | None = None,
        history_entry: str | None = None, detail: str | None = None, hold: bool = False,
    ) -> bool:  # fmt: skip
        """Settle the event. Return whether this claim still owned it."""
        values = (
            event["id"], event["claim"], state, reason, int(uses_attempt), delay, hold, history_entry or state, detail,
        )  # fmt: skip
        return bool(self.record([values], []))

    def mark(self, event: DictRow, recipient: str = "jane@example.org", message: bytes = b"bytes") -> bool:
        """Mark the event. Return whether this claim still owned it."""
        return bool(self.record([], [(event["id"], event["claim"], recipient, message)]))

    def peers(self) -> list[DictRow]:
        return self._run("peers", worker=self.id)

    def rescue(self, *, hold: bool = False, lease: float = 10.0) -> DictRow:
        """As one who has watched the others for long enough: whose session is gone or whose lease is over is dead."""
        over = {row[0] for row in self.conn.execute("SELECT id FROM pgherald.worker WHERE seen_at + lease < now()")}
        return self.rescue_from([peer for peer in self.peers() if peer["gone"] or peer["id"] in over], hold, lease)

    def rescue_from(self, dead: Sequence[DictRow], hold: bool = False, lease: float = 10.0) -> DictRow:
        values = {"dead": [peer["id"] for peer in dead], "seen": [peer["seen_at"] for peer in dead]}
        [row] = self._run("rescue", worker=self.id, lease=lease, hold=self._held(hold), **values)
        return row

    def find_settled(self, event: DictRow, state: str) -> bool:
        settled = [{"id": event["id"], "claim": event["claim"], "state": state}]
        return bool(self._run("find_settled", settled=json.dumps(settled)))

    def release_lost_claims(self, *heard_of: DictRow) -> int:
        fences = {"ids": [event["id"] for event in heard_of], "claims": [event["claim"] for event in heard_of]}
        return len(self._run("release_lost_claims", worker=self.id, **fences))

    def resend(self, *, hold: bool = False) -> int:
        return self.conn.execute(QUERIES["resend"], {"hold": self._held(hold)}).rowcount

    def unregister(self) -> None:
        self._run("unregister", worker=self.id)

    def waiting(self) -> tuple[int, int]:
        [row] = self._run("waiting", rules=[RULE])
        return row["available"], row["in_doubt"]

    def record(self, settlements: list[tuple[Any, ...]], marks: list[tuple[Any, ...]]) -> set[int]:
        """The ids of those that were still this claim's to write."""
        columns = ("id", "claim", "state", "reason", "uses_attempt", "delay", "hold", "history_entry", "detail")
        settled = json.dumps([dict(zip(columns, row, strict=True)) for row in settlements])
        marked = json.dumps(
            [{"id": id, "claim": claim, "recipient": to, "hold": self.hold} for id, claim, to, _ in marks]
        )
        messages = [message for *_, message in marks]
        if not marks:
            rows = self._run("settle", settled=settled)
        elif not settlements:
            rows = self._run("mark", marked=marked, messages=messages)
        else:
            rows = self._run("record", settled=settled, marked=marked, messages=messages)
        return {row["id"] for row in rows}

    @staticmethod
    def _held(hold: bool) -> list[str]:
        """Return the rules whose events in doubt a worker holds."""
        return [RULE] if hold else []

    def _run(self, query: str, **values: Any) -> list[DictRow]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            cursor.execute(QUERIES[query], values)
            return cursor.fetchall() if cursor.description else []
