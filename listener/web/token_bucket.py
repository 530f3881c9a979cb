"""How often something may be done."""

import asyncio


class TokenBucket:
    """A bucket of `burst` that fills up again at `rate` a second; the same for all who come."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = 0.0

    @property
    def reached(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left < 1

    def count(self) -> None:
        self._left -= 1
