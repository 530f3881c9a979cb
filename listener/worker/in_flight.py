"""The events that this worker has claimed and not yet settled."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime

from listener.outbox.event import Event
from listener.retry import wait

# Consent is checked when an event is claimed, so no more are claimed than can be sent within this time.
SEND_WITHIN_S = 0.5
# Time for the claimed events to reach the server before other work takes the processor from them.
_SENDERS_START_S = 0.005
# This bounds memory and the work of a rescue. A claim of 500 events already costs next to nothing per event, so more
# would not be faster.
MAX_EVENTS = 500


class InFlight:
    """Count what is in flight, and say how much more may be claimed.

    `queued_bytes` is the size of the rows that wait to be composed, and `composed_bytes` that of the messages that are
    composed and not yet settled. `looking_up` is the number of events whose lookup is running. `settled_at` is when an
    event was last settled, on the loop's clock.
    """

    def __init__(self, min_capacity: int) -> None:
        self.queued_bytes = 0
        self.composed_bytes = 0
        self.looking_up = 0
        self.settled_at = -math.inf
        self._min_capacity = min_capacity
        # By event and claim: whether the lease under which the event was claimed is still valid.
        self._holds_lease: dict[tuple[int, int], Callable[[], bool]] = {}
        self._changed = asyncio.Event()
        self._settled_times: deque[float] = deque(maxlen=4 * MAX_EVENTS)
        # The loop's clock minus the database's.
        self._clock_offset = 0.0

    def __len__(self) -> int:
        return len(self._holds_lease)

    @property
    def to_send(self) -> int:
        """The number of events for which `capacity` counts. A lookup that waits for a lock must not hold up other rules."""
        return len(self._holds_lease) - self.looking_up

    @property
    def fences(self) -> Collection[tuple[int, int]]:
        """The (id, claim) of each event in flight."""
        return self._holds_lease.keys()

    @property
    def capacity(self) -> int:
        """How many events may be in flight: as many as were settled in `SEND_WITHIN_S` lately."""
        now = asyncio.get_running_loop().time()
        while self._settled_times and self._settled_times[0] < now - 1.0:
            self._settled_times.popleft()
        return min(max(self._min_capacity, int(SEND_WITHIN_S * len(self._settled_times))), MAX_EVENTS)

    def add(self, events: list[Event], holds_lease: Callable[[], bool], claimed_at: float) -> None:
        """Track claimed events. `claimed_at`: when the claim was sent, on the loop's clock."""
        if events:
            self._clock_offset = claimed_at - events[0].captured_at.timestamp() - events[0].age
        self._holds_lease.update((event.fence, holds_lease) for event in events)

    def holds_lease(self, event: Event) -> Callable[[], bool]:
        """Return the question whether the lease under which this event was claimed is still valid."""
        return self._holds_lease[event.fence]

    def database_time(self) -> datetime:
        """Return the time by the database's clock, as the last claim showed it."""
        return datetime.fromtimestamp(asyncio.get_running_loop().time() - self._clock_offset, UTC)

    def age(self, event: Event) -> float:
        """Return the seconds since the event was captured."""
        return self.database_time().timestamp() - event.captured_at.timestamp()

    def remove(self, event: Event) -> None:
        """Forget an event, and wake those who wait for room."""
        del self._holds_lease[event.fence]
        self.wake()

    def settled(self) -> None:
        """Count an outcome for `capacity`."""
        self.settled_at = asyncio.get_running_loop().time()
        self._settled_times.append(self.settled_at)

    def wake(self) -> None:
        """End every wait for a change."""
        self._changed.set()

    async def wait_for_slot(self, timeout: float | None = None) -> None:
        """Wait until an event has come to its end, for `timeout` seconds at most."""
        self._changed.clear()
        await wait(self._changed, timeout)

    async def let_senders_start(self) -> None:
        """Give the processor to the senders for a few milliseconds, so that claimed events reach the server first."""
        clock = asyncio.get_running_loop().time
        end = clock() + _SENDERS_START_S
        while self._holds_lease and (left := end - clock()) > 0:
            await self.wait_for_slot(left)

    async def wait_until_empty(self, timeout: float | None = None) -> bool:
        """Wait until nothing is in flight, for `timeout` seconds at most. Return whether that is so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._holds_lease:
                    await self.wait_for_slot()
        return not self._holds_lease
