"""Run the lookups of several rules side by side, so that none holds up another.

A session waits for a lock for a moment only (`BATCH_LOCK_TIMEOUT_S`). Then its connection serves other rules, and the lookup is
tried again after a pause, until its time is over. A lookup that was slow, or whose table was locked, is suspected to be so
again. Suspects share half of the connections, so that the others always find one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from listener.db.pool import Pool
from listener.db.pools import BATCH_LOOKUP_CONNECTIONS, LOOKUP_TIMEOUT_S
from listener.errors import StatementTimeout
from listener.outbox.event import Event, Settlement
from listener.worker.decision import ToSend, ToSpread
from listener.worker.delivery import Delivery
from listener.worker.in_flight import InFlight
from listener.worker.row_budget import MAX_BATCH_BYTES

# A lookup takes a few milliseconds. One that takes this long would make others wait for its connection.
_SLOW_S = 1.0
# Between two tries. A lock that is held for long is tried once a second, which costs the server nothing.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
# The rows that lookups may return at present and those that wait to be composed together take no more than this. A
# claim is made while at most half of `MAX_BATCH_BYTES` waits.
_MAX_BYTES = MAX_BATCH_BYTES * 3 // 2
# The part of one lookup, if others may run beside it. As much as the largest row may take.
_PART_BYTES = MAX_BATCH_BYTES // BATCH_LOOKUP_CONNECTIONS


class LookupRuns:
    """The lookups that run at present. `pool` has `BATCH_LOOKUP_CONNECTIONS` connections."""

    def __init__(self, pool: Pool, in_flight: InFlight) -> None:
        self._pool = pool
        self._in_flight = in_flight
        self._free = asyncio.Semaphore(BATCH_LOOKUP_CONNECTIONS)
        self._free_for_suspects = asyncio.Semaphore(BATCH_LOOKUP_CONNECTIONS // 2)
        # Names of rules whose lookup was slow, and of tables that were locked.
        self._suspects: set[str] = set()
        self._reserved_bytes = 0

    async def triage(self, delivery: Delivery, rule: str, events: list[Event]) -> list[ToSend | ToSpread | Settlement]:
        """Decide about events of one rule as `Delivery.triage` does, and wait for locks up to the time limit.

        Raises:
            StatementTimeout: The time is over. No event can be decided.
            RuleBroken, DatabaseUnavailable: No event can be decided.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + LOOKUP_TIMEOUT_S
        table = delivery.rules[rule].table
        pause = _FIRST_PAUSE_S
        while True:
            try:
                async with self._connection_free(rule, table):
                    began = loop.time()
                    decided = await self._triage(delivery, rule, events)
            except StatementTimeout:
                # Other rules of the table need not find out one after another.
                self._suspects.add(table)
                if loop.time() + pause > end:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            self._suspects.discard(table)
            if loop.time() - began > _SLOW_S:
                self._suspects.add(rule)
            else:
                self._suspects.discard(rule)
            return decided

    @asynccontextmanager
    async def _connection_free(self, rule: str, table: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            if {rule, table} & self._suspects:
                await held.enter_async_context(self._free_for_suspects)
            await held.enter_async_context(self._free)
            yield

    async def _triage(self, delivery: Delivery, rule: str, events: list[Event]) -> list[ToSend | ToSpread | Settlement]:
        part = _PART_BYTES if len(delivery.rules) > 1 else MAX_BATCH_BYTES
        budget = max(0, min(part, _MAX_BYTES - self._in_flight.queued_bytes - self._reserved_bytes))
        self._reserved_bytes += budget
        try:
            return await delivery.triage(rule, events, self._pool, budget)
        finally:
            self._reserved_bytes -= budget
