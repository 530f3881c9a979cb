"""What one configuration makes of a claimed event: lookup → render → bytes, and what the outcome means for the outbox."""

import asyncio
import random
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from psycopg import AsyncConnection

from listener.address import Address, mask, parse_address
from listener.config.rules import Rule
from listener.db.pool import Pool
from listener.errors import BadData, RuleBroken
from listener.logs import log
from listener.mail import unsubscribe
from listener.mail.composer import Composer
from listener.mail.message import message_key
from listener.outbox.event import Event, Settlement, State, Stored
from listener.retry import FIRST, LONGEST, backoff
from listener.smtp.connection import Accepted, HandOver, InDoubt, NotSent, Refused, Withheld
from listener.smtp.replies import Verdict
from listener.worker.lookup import Found, Lookup, Mailing, Unmailed, too_large
from listener.worker.row_budget import BATCH

_COVERED_AGAIN = 1.0
_HELD = 15.0


@dataclass(frozen=True, slots=True)
class Letter:
    """Bytes on their way: what a mark keeps, and a second sending repeats."""

    event: Event
    recipient: Address
    message: bytes
    key: str


class Delivery:
    def __init__(
        self,
        rules: Mapping[str, Rule],
        composer: Composer,
        secret: bytes,
        *,
        max_attempts: int,
        max_age: float | None,
    ) -> None:
        self.rules = rules
        self._lookups = {name: Lookup(name, rule) for name, rule in rules.items()}
        self._composer = composer
        self._secret = secret
        self._max_attempts = max_attempts
        self._max_age = max_age
        self._held: dict[str, float] = {}

    async def check(self, conn: AsyncConnection[Any], lookups: Pool) -> None:
        """Try every rule against the database, without a row. `conn` is the daemon's own session.

        Raises:
            RuleBroken: a lookup fails, or a statement to unsubscribe would; or a template takes what its lookup does not give.
        """
        for name, lookup in self._lookups.items():
            self._composer.check(name, await lookup.check(conn, lookups))
            await unsubscribe.check(conn, name, lookup.rule)

    @property
    def unheld(self) -> list[str]:
        """The rules of which events are to be claimed."""
        now = asyncio.get_running_loop().time()
        self._held = {rule: until for rule, until in self._held.items() if until > now}
        return [rule for rule in self.rules if rule not in self._held]

    def hold(self, rule: str, exc: RuleBroken) -> None:
        """Claim no more of this rule for a while: what fails for every event must not fail any."""
        if rule not in self._held:
            log.error("rule_held", rule=rule, error=str(exc), remedy="mend it; it is tried again every 15 s")
        self._held[rule] = asyncio.get_running_loop().time() + _HELD

    async def sort(
        self, rule: str, events: Iterable[Event], pool: Pool, budget: int = BATCH
    ) -> list[Mailing | Settlement]:
        """Decide for each event of one rule whether it is to be mailed, with one query for all.

        Rows are read up to `budget` octets; the events of the others are given back.

        Raises:
            RuleBroken, DatabaseUnavailable: none of them can be decided.
        """
        events = list(events)
        newest = {event.key: event.id for event in sorted(events, key=lambda event: event.id) if event.flaw is None}
        decided: list[Mailing | Settlement] = []
        undecided: list[Event] = []
        for event in events:
            if early := self._early(event, newest.get(event.key, event.id)):
                decided.append(early)
            else:
                undecided.append(event)
        return decided + await self._judged(self._lookups[rule], undecided, pool, budget)

    def _early(self, event: Event, newest: int) -> Settlement | None:
        """What can be said without looking."""
        if event.flaw is not None:
            return Settlement(event, "failed", "failed", *event.flaw, counts=True)
        if self._max_age is not None and event.age > self._max_age:
            return Settlement(event, "skipped", "skipped", "expired", f"{event.age:.0f} s after the change")
        if newest > event.id or event.covered == "sent":
            return Settlement(
                event, "skipped", "skipped", "superseded", "another event's mail shows the same state of the row"
            )
        if event.covered is not None:
            # That mail is on its way in another worker's hands. If it gets there, this event is superseded.
            return Settlement(event, "available", delay=_COVERED_AGAIN)
        return None

    async def _judged(self, lookup: Lookup, events: list[Event], pool: Pool, budget: int) -> list[Mailing | Settlement]:
        if not events:
            return []
        if budget <= 0:
            return [Settlement(event, "available") for event in events]
        try:
            found = await lookup.rows(pool, [event.key for event in events], budget)
        except BadData as exc:
            if len(events) == 1:
                return [self._retry(events[0], exc.reason, str(exc), None)]
            # One row spoils the query for all: find it by halves.
            half = len(events) // 2
            first = await self._judged(lookup, events[:half], pool, budget)
            return first + await self._judged(lookup, events[half:], pool, budget - octets(first))
        return [self._decided(lookup, event, found) for event in events]

    def _decided(self, lookup: Lookup, event: Event, found: Found) -> Mailing | Settlement:
        if event.key in found.too_large:
            return _unmailed(too_large(event, found.too_large[event.key]))
        if event.key in found.later:
            return Settlement(event, "available")
        try:
            verdict = lookup.judge(event, found.rows[event.key], found.octets.get(event.key, 0))
        except Exception as exc:
            return unforeseen(event, exc)
        verdict = self._guarded(verdict)
        return verdict if isinstance(verdict, Mailing) else _unmailed(verdict)

    def _guarded(self, verdict: Mailing | Unmailed) -> Mailing | Unmailed:
        if isinstance(verdict, Mailing) and not self._composer.guard.admits(verdict.recipient):
            return _not_allowed(verdict.event, verdict.recipient)
        return verdict

    def write(self, mailing: Mailing, stored: Stored | None = None) -> Letter | Settlement:
        """The bytes to send. After a sending in doubt, what is `stored` of it: the very same as then.

        Raises:
            RuleBroken: there is no message for any row.
        """
        event = mailing.event
        key = message_key(self._secret, event.rule, event.id, event.captured_at)
        try:
            if stored is not None:
                recipient = parse_address(stored.recipient)
                # The dump of a database comes with the mail that was in doubt there.
                if not self._composer.guard.admits(recipient):
                    return _unmailed(_not_allowed(event, recipient))
                return Letter(event, self._composer.guard.divert(recipient), stored.message, key)
            message = self._composer.compose(
                event.rule, event.key, mailing.context, mailing.recipient, key, event.captured_at
            )
        except BadData as exc:
            return unusable(event, exc)
        except RuleBroken:
            raise
        except Exception as exc:
            return unforeseen(event, exc)
        return Letter(event, message.recipient, message.octets, key)

    def settlement(self, letter: Letter, outcome: HandOver) -> Settlement:
        """What is written in the outbox after a hand-over."""
        event, recipient = letter.event, letter.recipient
        match outcome:
            case Accepted(reply):
                return Settlement(event, "sent", "sent", detail=mask(str(reply), recipient), counts=True)
            case Refused(phase, reply, verdict):
                return self._refused(event, mask(f"{phase}: {reply}", recipient), verdict)
            case NotSent(phase, detail, verdict):
                return self._refused(event, mask(f"{phase}: {detail}", recipient), verdict)
            case InDoubt(detail):
                return Settlement(event, "in_doubt", "in_doubt", "no_reply", mask(detail, recipient), delay=backoff(1))
            case Withheld():
                return Settlement(event, "available")
            case _:
                assert_never(outcome)

    def _refused(self, event: Event, detail: str, verdict: Verdict) -> Settlement:
        if verdict.permanent:
            return Settlement(event, "failed", "failed", verdict.reason, detail, counts=verdict.counts)
        if verdict.counts:
            return self._retry(event, verdict.reason, detail, verdict.delay)
        # The server's trouble, not this message's. A little later, so that if it is the message after all, others go first.
        # Never before the server wants it.
        jitter = random.uniform(1.0, 1.5)  # noqa: S311 - spreads load, guards nothing
        return Settlement(
            event, "available", "not_sent", verdict.reason, detail, delay=jitter * (verdict.delay or 2 / 3)
        )

    def _retry(self, event: Event, reason: str, detail: str, delay: float | None) -> Settlement:
        attempt = event.attempt + 1
        if attempt >= self._max_attempts:
            return Settlement(event, "failed", "failed", reason, f"{detail} (attempt {attempt}, the last)", counts=True)
        # Around the delay that the reply suggests; a full mailbox is worth waiting for, for days.
        first = 1.5 * delay if delay is not None else FIRST
        pause = backoff(attempt, first, longest=max(LONGEST, 8 * first))
        return Settlement(event, "available", "deferred", reason, detail, counts=True, delay=pause)


def octets(decided: Iterable[Mailing | Settlement]) -> int:
    """What the rows of those that are to be mailed take."""
    return sum(each.octets for each in decided if isinstance(each, Mailing))


def unusable(event: Event, exc: BadData) -> Settlement:
    """What becomes of an event whose own data cannot be mailed."""
    return Settlement(event, "failed", "failed", exc.reason, mask(str(exc)), counts=True)


def unforeseen(event: Event, exc: Exception, *, sending: bool = False) -> Settlement:
    """What becomes of an event on which the daemon itself fails; the others go on. `sending`: nobody knows how far it came.

    Where it failed is logged, and no words of the error: they may quote the row.
    """
    where = "".join(traceback.format_tb(exc.__traceback__))
    log.error("event_unforeseen", event_id=event.id, rule=event.rule, error=type(exc).__name__, where=where)
    state: State = "in_doubt" if sending else "failed"
    detail = f"{type(exc).__name__}, which nobody foresaw; the log says where (event_unforeseen)"
    return Settlement(
        event, state, state, "internal_error", detail, counts=not sending, delay=backoff(1) if sending else None
    )


def _not_allowed(event: Event, recipient: Address) -> Unmailed:
    return Unmailed(event, "not_allowed", f"{recipient.masked} is not in mail.allow")


def _unmailed(verdict: Unmailed) -> Settlement:
    state: State = "failed" if verdict.failed else "skipped"
    return Settlement(verdict.event, state, state, verdict.reason, verdict.detail, counts=verdict.failed)
