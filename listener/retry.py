"""How long to wait before the next try, and how often to say so."""

import math
import random
import time

from listener.logs import log

FIRST_DELAY_S = 10.0
MAX_DELAY_S = 3600.0
_LOG_NEW_ERROR_S = 1.0
_LOG_SAME_ERROR_S = 10.0


def backoff(attempt: int, first: float = FIRST_DELAY_S, longest: float = MAX_DELAY_S) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1): exponential, with full jitter over the upper half.

    The lower half is kept, so that a retry is never at once.
    """
    ceiling = min(longest, first * 2.0 ** min(attempt - 1, 30))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class Outage:
    """One thing that fails again and again: how long to wait before the next try, and when to say so.

    Said under the name `event` at once, and then every 10 s, or after 1 s where the words are new: an outage is a few
    lines in the log and not thousands. `first` and `longest` as in `backoff`.
    """

    def __init__(self, event: str, *, first: float, longest: float) -> None:
        self._event = event
        self._first = first
        self._longest = longest
        self._failures = 0
        self._said = (-math.inf, "")

    def failed(self, error: Exception, **more: object) -> float:
        """It has failed (once more). Gives the seconds to wait."""
        self._failures += 1
        at, words = self._said
        now = time.monotonic()
        if now - at >= (_LOG_NEW_ERROR_S if str(error) != words else _LOG_SAME_ERROR_S):
            self._said = (now, str(error))
            log.warning(self._event, error=str(error), **more)
        return backoff(self._failures, self._first, self._longest)

    def recovered(self) -> None:
        """It has worked. What fails next is new, and said at once, though not twice in a second."""
        self._failures = 0
        self._said = (self._said[0], "")
