"""Servers, programs and helpers of the tests. They wait for a condition, with a deadline, and never sleep blindly."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Timeout of a condition in seconds. It is long, since a loaded machine is no fault and a true condition ends the wait.
# It is shorter than the minute after which a daemon polls, which would hide a lost notification.
PATIENCE = 45.0
_STEP = 0.01


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout:g} s; last: {value!r}"
        time.sleep(_STEP)
    return value


async def wait_until_async(condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """The same, while the loop goes on. `condition` itself must not block it for long."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout:g} s; last: {value!r}"
        await asyncio.sleep(_STEP)
    return value
