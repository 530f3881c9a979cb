"""Delivering by one configuration: decide about claimed events, compose messages, and turn outcomes into settlements."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from listener.address import mask, parse_address
from listener.config.rules import Rule
from listener.config.sections import DeliverySettings
from listener.db.pool import Pool
from listener.db.statement import statements_of
from listener.errors import BadData, RuleBroken, StatementTimeout
from listener.logs import log
from listener.mail.composer import Composer
from listener.message_id import make_message_id
from listener.outbox.event import Event, OutgoingMessage, Settlement, StoredMessage
from listener.retry import backoff
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.worker.decision import NotToSend, ToSend, ToSpread
from listener.worker.lookup import Lookup, too_large
from listener.worker.lookup_result import LookupResult
from listener.worker.retry_policy import RetryPolicy
from listener.worker.row_budget import MAX_BATCH_BYTES
from listener.worker.spreading import find_people
from listener.worker.suspensions import Suspensions
from listener.worker.unsent import (
    not_allowed,
    settle_bad_data,
    settle_internal_error,
    settle_moved,
    settle_repeat,
    settle_superseded,
    settle_unsent,
)


class Delivery:
    """The rules of one configuration, and what they make of an event.

    `rules` are by name, and `suspensions` says which of them are suspended. `secret` signs message ids. `policies` has
    the section `[delivery]` as it applies to each rule.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        composer: Composer,
        secret: bytes,
        policies: Mapping[str, DeliverySettings],
    ) -> None:
        self.rules = rules
        self.suspensions = Suspensions()
        # Rules whose check met a locked table.
        self._unchecked: set[str] = set()
        self._lookups = {name: Lookup(name, rule) for name, rule in rules.items()}
        self._composer = composer
        self._secret = secret
        self.policies = policies
        self._retries = {
            name: RetryPolicy(policy.give_up_after, policy.max_attempts) for name, policy in policies.items()
        }

    async def check(self, lookups: Pool) -> None:
        """Try every rule against the database, without a row.

        A rule whose table is locked is tried at its first event instead.

        Raises:
            RuleBroken: A lookup or a statement fails, or a template uses a column that its lookup lacks.
            DatabaseUnavailable: The check can be retried.
        """
        locked: set[str] = set()
        for name, rule in self.rules.items():
            self._unchecked.add(name)
            # The rules of a locked table need not wait one after another.
            if rule.table in locked:
                continue
            try:
                await self._check(name, lookups)
            except StatementTimeout as exc:
                locked.add(rule.table)
                log.warning("rule_unchecked", rule=name, error=str(exc))

    async def _check(self, name: str, lookups: Pool) -> None:
        lookup = self._lookups[name]
        self._composer.check(name, await lookup.check(lookups))
        for statement in statements_of(name, lookup.rule):
            async with lookups.connection() as conn:
                await statement.check(conn)
        self._unchecked.discard(name)

    def message_id(self, event: Event) -> str:
        """Return the left part of the email's Message-ID; of an event that cannot be read, an empty text."""
        if event.flaw is not None:
            return ""
        return make_message_id(self._secret, event.rule, event.id, event.captured_at)

    @property
    def active_shares(self) -> dict[str, int]:
        """The rules whose events are to be claimed, and the share of each. Suspended rules are left out."""
        return {rule: self.rules[rule].share for rule in self.suspensions.active(self.rules)}

    async def triage(
        self, rule: str, events: Iterable[Event], pool: Pool, budget: int = MAX_BATCH_BYTES
    ) -> list[ToSend | ToSpread | Settlement]:
        """Decide for each event of one rule whether to send it, with one query for all of them.

        A rule with `each` has a second query for the events of one person.

        Rows are read up to `budget` octets. The other events are released.

        Raises:
            RuleBroken, DatabaseUnavailable: No event can be decided.
        """
        events = list(events)
        newest = {
            event.row_name: event.id for event in sorted(events, key=lambda event: event.id) if event.flaw is None
        }
        decided: list[ToSend | ToSpread | Settlement] = []
        undecided: list[Event] = []
        for event in events:
            if early := self._decide_without_lookup(event, newest.get(event.row_name, event.id)):
                decided.append(early)
            else:
                undecided.append(event)
        if undecided and rule in self._unchecked:
            await self._check(rule, pool)
        # The rows of all people of a key are read only for an event that is for all of them.
        unspread = [event for event in undecided if event.person is None]
        decided += await self._look_up(self._lookups[rule], unspread, pool, budget)
        spread = [event for event in undecided if event.person is not None]
        return decided + await self._look_up(self._lookups[rule], spread, pool, budget - queued_bytes(decided))

    def _decide_without_lookup(self, event: Event, newest: int) -> Settlement | None:
        """Return the settlement of an event for which no lookup is needed, or None."""
        if event.flaw is not None:
            return Settlement(event, "failed", "failed", *event.flaw, uses_attempt=True)
        max_age = self.policies[event.rule].max_age
        if max_age is not None and event.age > max_age:
            return Settlement(event, "skipped", "skipped", "expired", f"{event.age:.0f} s after the change")
        superseded = settle_superseded(event, "sent" if newest > event.id else event.superseded_by)
        return superseded or (settle_repeat(event, event.repeat) if event.repeat is not None else None)

    async def _look_up(
        self, lookup: Lookup, events: list[Event], pool: Pool, budget: int
    ) -> list[ToSend | ToSpread | Settlement]:
        if not events:
            return []
        if budget <= 0:
            return [Settlement(event, "available") for event in events]
        people = {event.person for event in events if event.person is not None}
        keys = list(dict.fromkeys(event.key for event in events))
        try:
            found = await lookup.rows(pool, keys, budget, people or None)
        except BadData as exc:
            if len(events) == 1:
                return [self._retries[lookup.name].defer(events[0], exc.reason, str(exc))]
            # One row makes the query fail for all. Halving finds it.
            half = len(events) // 2
            first = await self._look_up(lookup, events[:half], pool, budget)
            return first + await self._look_up(lookup, events[half:], pool, budget - queued_bytes(first))
        if lookup.rule.each and not people:
            return [self._spread(lookup, event, found) for event in events]
        return [self._decide(lookup, event, found) for event in events]

    def _spread(self, lookup: Lookup, event: Event, found: LookupResult) -> ToSpread | Settlement:
        """Decide about an event that is for all people of its row."""
        people = find_people(event, found.people.get(event.key, []))
        if isinstance(people, NotToSend):
            return settle_unsent(people)
        first = self._decide(lookup, replace(event, person=people[0]), found)
        if (event.key in found.reverted or event.key in found.gone) and isinstance(first, Settlement):
            return first
        return ToSpread(event, people, first)

    def _decide(self, lookup: Lookup, event: Event, found: LookupResult) -> ToSend | Settlement:
        if event.row_name in found.too_large:
            return settle_unsent(too_large(event, found.too_large[event.row_name]))
        if event.row_name in found.later:
            return Settlement(event, "available")
        try:
            verdict = lookup.decide(event, found)
        except Exception as exc:
            return settle_internal_error(event, exc)
        verdict = self._check_recipient(verdict)
        return verdict if isinstance(verdict, ToSend) else settle_unsent(verdict)

    def _check_recipient(self, verdict: ToSend | NotToSend) -> ToSend | NotToSend:
        if isinstance(verdict, ToSend) and not self._composer.recipients.allows(verdict.recipient):
            return not_allowed(verdict.event, verdict.recipient)
        return verdict

    def compose(
        self, to_send: ToSend, date: datetime, stored: StoredMessage | None = None
    ) -> OutgoingMessage | Settlement:
        """Return the message to send, of this `date`. After a sending in doubt, it is the `stored` one, byte by byte.

        A second sending goes only to the address of the first, and only while the row still has it.

        Raises:
            RuleBroken: No message can be composed for any row of the rule.
        """
        event = to_send.event
        key = self.message_id(event)
        try:
            if stored is not None:
                recipient = parse_address(stored.recipient)
                # A restored dump contains messages that were in doubt, whose recipients may not be allowed here.
                if not self._composer.recipients.allows(recipient):
                    return settle_unsent(not_allowed(event, recipient))
                if not self._composer.recipients.leads_to(to_send.recipient, recipient):
                    return settle_moved(event, recipient, to_send.recipient)
                return OutgoingMessage(event, self._composer.recipients.route(recipient), stored.message, key)
            message = self._composer.compose(
                event.rule, event.key, to_send.context, to_send.recipient, key, date, event.captured_at, event.person
            )
        except BadData as exc:
            return settle_bad_data(event, exc)
        except RuleBroken:
            raise
        except Exception as exc:
            return settle_internal_error(event, exc)
        for remark in message.remarks:
            log.warning("part_left_out", event_id=event.id, rule=event.rule, remark=remark, **event.log_name)
        self.suspensions.end(event.rule)
        return OutgoingMessage(event, message.recipient, message.octets, key)

    def settlement(self, message: OutgoingMessage, outcome: SendOutcome) -> Settlement:
        """Return what to write in the outbox after an attempt to send."""
        event, recipient = message.event, message.recipient
        match outcome:
            case Accepted(reply):
                return Settlement(event, "sent", "sent", detail=mask(str(reply), recipient), uses_attempt=True)
            case Refused(phase, reply, verdict):
                return self._retries[event.rule].refused(event, mask(f"{phase}: {reply}", recipient), verdict)
            case NotSent(phase, detail, verdict):
                return self._retries[event.rule].refused(event, mask(f"{phase}: {detail}", recipient), verdict)
            case InDoubt(detail):
                return Settlement(event, "in_doubt", "in_doubt", "no_reply", mask(detail, recipient), delay=backoff(1))
            case NotPermitted():
                return Settlement(event, "available")
            case _:
                assert_never(outcome)


def queued_bytes(decided: Iterable[ToSend | ToSpread | Settlement]) -> int:
    """Return the size in octets of the rows that are to be sent."""
    decided = (each.first if isinstance(each, ToSpread) else each for each in decided)
    return sum(each.octets for each in decided if isinstance(each, ToSend))
