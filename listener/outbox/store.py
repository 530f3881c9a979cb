"""The outbox as a worker uses it: claim events, mark them, write their outcomes, release them."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.rows import dict_row

from listener.address import mask
from listener.config.keys import MAX_KEY_BYTES
from listener.db.connection import raw_cursor
from listener.db.errors import error_kind, translate_errors
from listener.db.pool import Pool
from listener.db.queries import load, positional, run_query
from listener.errors import BadData
from listener.logs import log
from listener.outbox import repeats, rows
from listener.outbox.event import Event, OutgoingMessage, Settlement, StoredMessage, compress, decompress
from listener.outbox.inbox import START, TAKE_OVER_ROWS, Inbox
from listener.outbox.registration import Registration
from listener.outbox.turns import Turn, columns
from listener.transport.base import MAX_MESSAGE_BYTES

QUERIES = load("outbox")
_CLAIM, _CLAIM_PARAMETERS = positional(QUERIES["claim"])
# Outcomes and marks in one statement: one round trip and one flush of the WAL for both.
QUERIES["record"] = (
    f"-- name: record\nWITH settled AS ({QUERIES['settle']}), marked AS ({QUERIES['mark']})\n"  # noqa: S608 - our own
    "SELECT id, claim FROM settled UNION ALL SELECT id, claim FROM marked"
)

# Statements of one claim that find only changes that may not be sent: 200,000 of them, and a few seconds.
_MAX_ROUNDS = 100
# The columns of `claim` that belong to the event, in the order of `Event`.
_EVENT_COLUMNS = 13

# Raised because of one event's data, by the server or while its answer is read. The connection stays usable.
_DATA_ERRORS = (psycopg.DataError, psycopg.IntegrityError, UnicodeError)


class Outbox:
    """Queries about the events of one worker. Every method raises `DatabaseUnavailable` or `SchemaError`.

    `hold` is called for each write, since a reload may change it. It returns whether an event of this rule waits for a
    person when it is in doubt, instead of being sent once more.
    """

    def __init__(self, pool: Pool, registration: Registration, hold: Callable[[str], bool]) -> None:
        self._pool = pool
        self._registration = registration
        self.holds_doubts = hold
        self._claims = itertools.count(1)
        self.inbox = Inbox(pool)

    @property
    def worker(self) -> int:
        """The id of the registration under which events are claimed now."""
        return self._registration.worker

    def is_leased(self, worker: int) -> bool:
        """Return whether the lease of registration `worker` (ours, or one we held before) is still valid."""
        return self._registration.is_leased(worker)

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, no longer than until another query has succeeded."""
        await self._pool.pause(seconds)

    async def claim(self, limit: int, turns: Sequence[Turn], window: float | None = None) -> list[Event]:
        """Claim up to `limit` due events. No other worker can claim them until they are settled or this worker is dead.

        `turns` names the rules, and how the limit is divided among them.

        With a `window`, only events are claimed that were scheduled within so many seconds.

        An event that cannot be read fails the statement for all. They are then claimed one by one, and that event is
        returned with its `flaw`.
        """
        number = next(self._claims)
        with translate_errors():
            try:
                return await self._claim(number, limit, turns, window=window)
            except _DATA_ERRORS:
                # If only the answer could not be read, the events are claimed already.
                await self._run("unclaim", worker=self.worker, number=number)
                await self.inbox.take_over()
                due = await self._run("due", limit=limit, rules=columns(turns)["rules"])
                return [event for event_id, rule in due for event in await self._claim_one(event_id, rule)]

    async def _claim_one(self, event_id: int, rule: str) -> list[Event]:
        number = next(self._claims)
        try:
            return await self._claim(number, 1, [Turn(rule)], only=event_id)
        except _DATA_ERRORS as exc:
            return await self._claim_unreadable(event_id, number, error_kind(exc))

    async def _claim(
        self, number: int, limit: int, turns: Sequence[Turn], *, window: float | None = None, only: int | None = None
    ) -> list[Event]:
        asked = {"limit": limit, "window": window, "only": only, "batch": self.inbox.rows(len(turns)), **columns(turns)}
        values = {"worker": self.worker, "number": number, "name": self._registration.name, **asked}
        events: list[Event] = []
        for _ in range(_MAX_ROUNDS):
            values["start"] = start = self.inbox.position
            async with self._pool.connection() as conn, raw_cursor(conn) as cursor:
                await cursor.execute(_CLAIM, [values[name] for name in _CLAIM_PARAMETERS])
                found = await cursor.fetchall()
            events = [Event(*row[:_EVENT_COLUMNS]) for row in found if row[0] is not None]
            if only is not None:
                break
            *_, has_more, position = found[0]
            self.inbox.was_read(len(turns), position, has_more=has_more)
            if events or not (has_more or start != START):
                break
            # All that were taken over are of rules that are paused, suspended or unknown, and more may follow. Or none
            # was left from that position on. Beyond the last round, the claim's own ring wakes this worker: the loop
            # must be seen to go on.
            values["batch"] = TAKE_OVER_ROWS
        # The query returns no key that is longer than MAX_KEY_BYTES.
        if too_long := [event for event in events if event.key is None]:
            events = [event for event in events if event.key is not None]
            for event in too_long:
                events += await self._claim_unreadable(event.id, number)
        return sorted(events, key=lambda event: event.id)

    async def _claim_unreadable(self, event_id: int, number: int, kind: str | None = None) -> list[Event]:
        """Claim an event so that it can be failed. Return nothing if another worker has taken it meanwhile.

        `kind` is the class of the error that `claim` fails with.
        """
        values = {"worker": self.worker, "number": number, "name": self._registration.name, "id": event_id}
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

    async def with_repeats(self, events: list[Event], again_after: float | None) -> list[Event]:
        """Return the claimed events of one rule, with `Event.repeat` as its `again_after` asks. None asks nothing."""
        return events if again_after is None or not events else await repeats.noted(self._pool, events, again_after)

    async def release_lost_claims(self, known: Collection[tuple[int, int]]) -> int:
        """Release claims whose reply was lost: every claim of this worker except `known`. Return their number."""
        fences = {"ids": [number for number, _ in known], "claims": [claim for _, claim in known]}
        return len(await self._run("release_lost_claims", worker=self.worker, **fences))

    async def spread(self, events: Sequence[tuple[Event, Sequence[str]]]) -> dict[tuple[int, int], str | None]:
        """Spread events to their people. Return `superseded_by` of each event that this worker still owned, by its fence.

        Raises:
            BadData: The database refuses one of them.
        """
        try:
            written = await self._run("spread", spread=rows.as_json(rows.spread(*each) for each in events))
        except _DATA_ERRORS as exc:
            raise BadData("unreadable", f"the people cannot be written ({error_kind(exc)})") from exc
        return {(row[0], row[1]): row[2] for row in written}

    async def stored_message(self, event: Event) -> StoredMessage | None:
        """Return the recipient and the bytes of the event's first sending. None if the event is no longer ours.

        Raises:
            BadData: The stored message cannot be read.
        """
        try:
            found = await self._run("stored", id=event.id, claim=event.claim, most=2 * MAX_MESSAGE_BYTES)
        except _DATA_ERRORS as exc:
            raise BadData("unreadable", f"the stored message cannot be read ({error_kind(exc)})") from exc
        if not found:
            return None
        recipient, message = found[0]
        if recipient is None or message is None:
            raise BadData("unreadable", "the stored message is missing, or larger than any that was sent")
        return StoredMessage(recipient, decompress(message))

    async def record(
        self, settlements: Sequence[Settlement], marks: Sequence[OutgoingMessage], *, again: bool = False
    ) -> set[tuple[int, int]]:
        """Write outcomes and marks durably. Return the fences of the events that this worker still owned.

        Ids would not do: a worker whose lease expired unnoticed may have one event in flight under two claims.

        `again`: The same outcomes were sent before and may have been written, although no answer came.
        """
        try:
            return await self._record(settlements, marks, again=again)
        except _DATA_ERRORS as exc:
            return await self._record_by_halves(settlements, marks, again, exc)

    async def _record_by_halves(
        self, settlements: Sequence[Settlement], marks: Sequence[OutgoingMessage], again: bool, exc: Exception
    ) -> set[tuple[int, int]]:
        """Write the two halves separately, and so on, until the event that the database refuses is alone."""
        if len(settlements) + len(marks) > 1:
            half, rest = len(settlements) // 2, len(marks) // 2
            if len(settlements) == 1:
                half, rest = 1, 0
            first = await self.record(settlements[:half], marks[:rest], again=again)
            return first | await self.record(settlements[half:], marks[rest:], again=again)
        for settlement in settlements:
            if settlement.history_entry is not None:
                # Write the state without the text and the attempt, one of which the database refuses.
                event = settlement.event
                log.warning("event_detail_lost", event_id=event.id, error=error_kind(exc), **event.log_name)
                return await self.record(
                    [replace(settlement, history_entry=None, detail=None, uses_attempt=False)], (), again=again
                )
        subjects: list[Settlement | OutgoingMessage] = [*settlements, *marks]
        for subject in subjects:
            event = subject.event
            log.error("event_not_written", event_id=event.id, rule=event.rule, error=error_kind(exc), **event.log_name)
        return set()

    async def _record(
        self, settlements: Sequence[Settlement], marks: Sequence[OutgoingMessage], *, again: bool
    ) -> set[tuple[int, int]]:
        hold, encodable = self.holds_doubts, self._registration.encodable
        values: dict[str, object] = {}
        if settlements:
            settled = (
                rows.settled(one, hold=hold(one.event.rule), detail=encodable(one.detail)) for one in settlements
            )
            values["settled"] = rows.as_json(settled)
        if marks:
            values["marked"] = rows.as_json(rows.marked(one, hold=hold(one.event.rule)) for one in marks)
            values["messages"] = [compress(one.raw) for one in marks]
        written = await self._run("record" if settlements and marks else "settle" if settlements else "mark", **values)
        if again and settlements:
            written += await self._run("find_settled", settled=values["settled"])
        return {(row[0], row[1]) for row in written}

    async def waiting(self, rules: Sequence[str]) -> tuple[int, int, int]:
        """Return how many events are available (due or not), are in doubt, and wait for their paused rule."""
        (row,) = await self._run("waiting", rules=list(rules))
        return row[0], row[1], row[2]

    async def ring(self, payload: str) -> None:
        """Send a NOTIFY to every daemon that listens."""
        await run_query(self._pool, "SELECT pg_notify('pgherald', %(payload)s)", {"payload": payload})

    async def _run(self, query: str, **values: Any) -> list[Any]:
        return await run_query(self._pool, QUERIES[query], values)
