"""A rate limit for requests."""

import asyncio


class TokenBucket:
    """A bucket of at most `burst` tokens, refilled at `rate` tokens a second. All clients share it."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._refilled_at = 0.0

    @property
    def empty(self) -> bool:
        """Return whether less than one token is left."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        return self._tokens < 1

    def take(self) -> None:
        """Remove one token."""
        self._tokens -= 1
