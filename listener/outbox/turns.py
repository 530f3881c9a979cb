"""The share that each rule gets of this daemon's claims, by start-time fair queuing.

Each rule has a time at which its next event has its turn. A claim moves that time on by the number of its events, divided
by the rule's `share`, and takes the events with the earliest turns. The clock of these times is the last turn that was
taken. A rule without events therefore gains nothing by waiting, but its next event has its turn at once.

The times are one daemon's own. Each daemon divides its claims fairly, so together they do, without a lock or a table.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from listener.config.keys import array_literal


@dataclass(frozen=True, slots=True)
class Turn:
    """When a rule has its next turn.

    Attributes:
        share: The weight of the rule.
        start: The time from now until its next turn, in units of one event of share 1.
    """

    rule: str
    share: int = 1
    start: float = 0.0


def columns(turns: Sequence[Turn]) -> dict[str, str]:
    """Return the turns as the parameters of `claim`: an array's text for each attribute.

    psycopg would inspect a list element by element, in Python.
    """
    return {
        "rules": array_literal([turn.rule for turn in turns]),
        "shares": f"{{{','.join(str(turn.share) for turn in turns)}}}",
        "starts": f"{{{','.join(str(turn.start) for turn in turns)}}}",
    }


class Turns:
    """The next turn of each rule. It is now, but for the rules that have had more than their share lately."""

    def __init__(self) -> None:
        self._starts: dict[str, float] = {}

    def next(self, shares: Mapping[str, int]) -> list[Turn]:
        """Return the next turns of these rules. `shares` are by rule."""
        return [Turn(rule, share, self._starts.get(rule, 0.0)) for rule, share in shares.items()]

    def took(self, asked: Sequence[Turn], limit: int, rules: Sequence[str]) -> bool:
        """Record a claim for up to `limit` events that was `asked` with these turns. `rules` has the rule of each event.

        Return whether nothing that was due can be left, except what others have claimed at the same moment.
        """
        taken = Counter(rules)
        if not self._may_leave_some(asked, limit, taken):
            # Nobody waits for a turn any more.
            self._starts.clear()
            return True
        # A rule that was not asked for waits for its own lookup, or is suspended. Its time goes on too.
        starts = {**self._starts, **{turn.rule: turn.start for turn in asked}}
        shares = {turn.rule: turn.share for turn in asked}
        now = max((starts[rule] + (count - 1) / shares[rule] for rule, count in taken.items()), default=0.0)
        for rule, count in taken.items():
            starts[rule] += count / shares[rule]
        self._starts = {rule: start - now for rule, start in starts.items() if start > now}
        return False

    def _may_leave_some(self, asked: Sequence[Turn], limit: int, taken: Mapping[str, int]) -> bool:
        if sum(taken.values()) >= limit:
            return True
        if len(taken) < 2:
            return False
        # `claim` has looked at no more events of each rule than this, and perhaps filled up with those of the wrong one.
        present = [turn for turn in asked if turn.rule in taken]
        shares = sum(turn.share for turn in present)
        return any(taken[turn.rule] > 2 * limit * turn.share // shares for turn in present)
