"""The rules that one daemon has suspended, because their lookup or template fails for every event."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from listener.address import mask
from listener.errors import RuleBroken
from listener.logs import log
from listener.printable import excerpt

# Long enough for a person to correct the rule, short enough that nobody waits after the correction.
RETRY_AFTER_S = 15.0
# Several tries. As long as an event of the rule is due, one of them fails within this time.
_IDLE_S = 3 * RETRY_AFTER_S


@dataclass(frozen=True, slots=True)
class Suspension:
    """Since when a rule is suspended, by this machine's clock, and why. Addresses in the reason are masked."""

    since: datetime
    reason: str


class Suspensions:
    """Which rules are suspended.

    A suspension outlasts the tries to end it. It ends when an event of the rule has been decided and composed, or when
    no event of the rule is due any more.
    """

    def __init__(self) -> None:
        self._current: dict[str, Suspension] = {}
        self._retry_at: dict[str, float] = {}

    @property
    def current(self) -> Mapping[str, Suspension]:
        """The suspensions by rule. The mapping never changes; a later change makes another one."""
        return self._current

    def active(self, rules: Iterable[str]) -> list[str]:
        """Return those of the rules whose events are to be claimed: not suspended, or to be tried again now."""
        return [rule for rule in rules if self._may_try(rule)]

    def suspend(self, rule: str, exc: RuleBroken) -> None:
        """Claim no more events of this rule for a while. An error that hits every event must not fail any of them."""
        reason = excerpt(mask(str(exc)))  # may quote a row
        before = self._current.get(rule)
        if self._may_try(rule):
            log.error(
                "rule_suspended",
                rule=rule,
                error=mask(str(exc)),
                remedy="correct the table, or the rule and send SIGHUP; "
                f"the daemon tries it again every {RETRY_AFTER_S:g} s",
            )
        suspension = replace(before, reason=reason) if before is not None else Suspension(datetime.now(UTC), reason)
        self._current = {**self._current, rule: suspension}
        self._retry_at[rule] = asyncio.get_running_loop().time() + RETRY_AFTER_S

    def end(self, rule: str) -> None:
        """End the rule's suspension, because a try has succeeded."""
        if rule in self._current and self._may_try(rule):
            self._current = {name: each for name, each in self._current.items() if name != rule}
            log.info("rule_resumed", rule=rule)

    def end_idle(self, rules: Iterable[str]) -> None:
        """End the suspensions of rules without a due event, unless one has failed lately.

        Another daemon may have claimed the rule's events at this moment.
        """
        now = asyncio.get_running_loop().time()
        for rule in rules:
            if rule in self._current and now - self._retry_at[rule] > _IDLE_S:
                self.end(rule)

    def _may_try(self, rule: str) -> bool:
        """Return whether the rule is not suspended, or its next try is due.

        An event that was looked up before the suspension proves nothing.
        """
        return rule not in self._current or asyncio.get_running_loop().time() >= self._retry_at[rule]
