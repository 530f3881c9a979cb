"""How far back a claim reads the index of available events, so that dead entries cost little."""

import math
from collections.abc import Collection

# A claim that reads the whole index within this time costs too little to spare it.
_CHEAP_S = 0.005
# An event is scheduled when its transaction begins. A transaction that takes longer before it commits is found by a
# claim that reads everything.
_MARGIN_S = 5.0
# A claim that reads everything takes at most a twentieth of the time. It takes less while nothing indicates an event.
_REST = 20.0
_IDLE_REST = 200.0


class ScanPace:
    """Let a claim read only the recent end of the index, while reading all of it is expensive.

    A transaction that stays open anywhere in the database keeps every dead row version. The index then starts with the
    entries of all events that were delivered since, and each claim reads them. Older events are rare: a long transaction
    captured them, or somebody released or changed them.

    Times are on the loop's clock. `is_urgent`: an event may have become available since everything was read.
    `read_all_at`: when the last claim began that read everything and left no due event.
    """

    def __init__(self) -> None:
        self.is_urgent = True
        self._cost_s = 0.0
        self.read_all_at = -math.inf
        self._ended_at = -math.inf
        self._rules: frozenset[str] = frozenset()

    @property
    def is_expensive(self) -> bool:
        """Return whether reading everything took long the last time."""
        return self._cost_s > _CHEAP_S

    def wait(self, now: float) -> float:
        """Return how many seconds are left until a claim may read everything again."""
        if not self.is_expensive:
            return 0.0
        return max(0.0, self._ended_at + self._cost_s * (_REST if self.is_urgent else _IDLE_REST) - now)

    def window(self, now: float, rules: Collection[str], *, thorough: bool) -> float | None:
        """Return how many seconds back the next claim reads. None: it reads everything.

        `thorough`: it reads everything if enough time has passed. Otherwise it does so only if that is cheap.
        """
        if not self.is_expensive or not self._rules.issuperset(rules) or (thorough and not self.wait(now)):
            return None
        return now - self.read_all_at + _MARGIN_S

    def read_all(self, began: float, ended: float, rules: Collection[str], *, found_end: bool) -> None:
        """Record a claim that read everything. `found_end`: it left no due event.

        If it did leave some, they may be old, so the next claim reads everything too.
        """
        if found_end:
            self._cost_s, self.read_all_at, self._ended_at = ended - began, began, ended
            self._rules = frozenset(rules)
        else:
            self._rules = frozenset()
