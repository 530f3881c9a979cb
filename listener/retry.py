"""How long to wait before the next try, and a wait that an event ends early."""

import asyncio
import random
from contextlib import suppress

# The first retry of an event or a connection. A restart of a server takes about as long.
FIRST_DELAY_S = 10.0
# Greylisting and most outages end within the hour, and a longer delay would hold back email after the end of one.
MAX_DELAY_S = 3600.0
# 2 ** 30 exceeds every ratio of delays. Without a limit a long outage would overflow the float.
_MAX_DOUBLINGS = 30


def backoff(attempt: int, first: float = FIRST_DELAY_S, longest: float = MAX_DELAY_S) -> float:
    """Return the seconds to wait after the `attempt`-th failure, counted from 1.

    The delay doubles from `first` up to `longest`. A random factor between one half and one spreads the retries of many
    clients, and keeps a retry from being immediate.
    """
    ceiling = min(longest, first * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load and protects nothing


async def wait(event: asyncio.Event, timeout: float | None) -> None:
    """Wait until the event is set, for `timeout` seconds at most. None: without a limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
