"""How long to wait before the next try."""

import random

FIRST = 10.0
LONGEST = 3600.0


def backoff(attempt: int, first: float = FIRST, longest: float = LONGEST) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1): exponential, with full jitter over the upper half.

    The lower half is kept, so that a retry is never at once.
    """
    ceiling = min(longest, first * 2.0 ** min(attempt - 1, 30))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
