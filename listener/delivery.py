"""What one configuration makes of a claimed event: lookup → render → bytes, and what the outcome means for the outbox."""

import asyncio
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from psycopg import AsyncConnection

from listener import unsubscribe
from listener.address import Address, mask, parse_address
from listener.composer import Composer
from listener.errors import BadData, RuleBroken
from listener.logs import log
from listener.lookup import Lookup, Mailing, Unmailed
from listener.message import message_key
from listener.outbox import Event, Settlement, State
from listener.pool import Pool
from listener.replies import Verdict
from listener.retry import FIRST, LONGEST, backoff
from listener.rules import Rule
from listener.smtp import Accepted, HandOver, InDoubt, NotSent, Refused, Withheld

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

    async def sort(self, rule: str, events: Iterable[Event], pool: Pool) -> list[Mailing | Settlement]:
        """Decide for each event of one rule whether it is to be mailed, with one query for all.

        Raises:
            RuleBroken, DatabaseUnavailable: none of them can be decided.
        """
        events = list(events)
        newest = {event.key: event.id for event in sorted(events, key=lambda event: event.id)}
        decided: list[Mailing | Settlement] = []
        undecided: list[Event] = []
        for event in events:
            if early := self._early(event, newest[event.key]):
                decided.append(early)
            else:
                undecided.append(event)
        return decided + await self._judged(self._lookups[rule], undecided, pool)

    def _early(self, event: Event, newest: int) -> Settlement | None:
        """What can be said without looking."""
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

    async def _judged(self, lookup: Lookup, events: list[Event], pool: Pool) -> list[Mailing | Settlement]:
        if not events:
            return []
        try:
            rows = await lookup.rows(pool, [event.key for event in events])
        except BadData as exc:
            if len(events) == 1:
                return [self._retry(events[0], exc.reason, str(exc), None)]
            # One row spoils the query for all: find it by halves.
            half = len(events) // 2
            return await self._judged(lookup, events[:half], pool) + await self._judged(lookup, events[half:], pool)
        verdicts = [self._guarded(lookup.judge(event, rows.get(event.key, ()))) for event in events]
        return [verdict if isinstance(verdict, Mailing) else _unmailed(verdict) for verdict in verdicts]

    def _guarded(self, verdict: Mailing | Unmailed) -> Mailing | Unmailed:
        if isinstance(verdict, Mailing) and not self._composer.guard.admits(verdict.recipient):
            return _not_allowed(verdict.event, verdict.recipient)
        return verdict

    def write(self, mailing: Mailing) -> Letter | Settlement:
        """The bytes to send. After a sending in doubt: the very same as then."""
        event = mailing.event
        key = message_key(self._secret, event.rule, event.id, event.captured_at)
        try:
            if event.recipient is not None and (kept := event.kept) is not None:
                recipient = parse_address(event.recipient)
                # The dump of a database comes with the mail that was in doubt there.
                if not self._composer.guard.admits(recipient):
                    return _unmailed(_not_allowed(event, recipient))
                return Letter(event, self._composer.guard.divert(recipient), kept, key)
            message = self._composer.compose(
                event.rule, event.key, mailing.context, mailing.recipient, key, event.captured_at
            )
        except BadData as exc:
            return Settlement(event, "failed", "failed", exc.reason, mask(str(exc)), counts=True)
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


def _not_allowed(event: Event, recipient: Address) -> Unmailed:
    return Unmailed(event, "not_allowed", f"{recipient.masked} is not in mail.allow")


def _unmailed(verdict: Unmailed) -> Settlement:
    state: State = "failed" if verdict.failed else "skipped"
    return Settlement(verdict.event, state, state, verdict.reason, verdict.detail, counts=verdict.failed)
