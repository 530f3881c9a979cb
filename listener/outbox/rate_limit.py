"""The rate at which all daemons of one database together send: the configured one, or a lower one after throttling.

A throttling reply halves the rate, and it rises again with time (additive increase, multiplicative decrease, RFC 5681).
The rate and the time of the next sending slot are one row in the database. A worker reserves slots before it claims
events, so that it claims none that it may not send at once. Consent is thus checked within a second or two of sending.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from psycopg.rows import tuple_row

from listener.db.errors import translate_errors
from listener.db.pool import Pool
from listener.db.queries import load
from listener.errors import PgheraldError, SchemaError
from listener.logs import log

_QUERIES = load("rate_limit")
# How far ahead slots are reserved. A claim and its lookup take a part of that time before the first can be used.
_WINDOW_S = 0.5
# Further throttling replies within this time answer messages that were on their way already: they say nothing new. The
# query `throttled` has the same figure for all daemons.
_SAME_THROTTLING_S = 2.0
# Moments of sending that are remembered to measure the current rate. One daemon sends less than this in a second.
_MAX_SENT = 10_000


@dataclass(frozen=True, slots=True)
class Slots:
    """Sending slots: `number` emails, the first in `wait` seconds, each `interval` seconds after the one before.

    If `number` is 0, ask again in `wait` seconds.
    """

    number: int
    wait: float = 0.0
    interval: float = 0.0


class RateLimiter:
    """One daemon's share of the rate.

    `ceiling` is the configured rate in emails per second of all daemons together; None: no limit. Without a ceiling the
    database is asked only at the start, and after a server has throttled this daemon.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._is_lowered = True
        self._lowered_at = 0.0
        self._sent: deque[float] = deque(maxlen=_MAX_SENT)

    def is_limited(self, ceiling: float | None) -> bool:
        """Return whether an email needs a sending slot."""
        return self._is_lowered or ceiling is not None

    async def reserve(self, limit: int, ceiling: float | None) -> Slots:
        """Reserve up to `limit` slots.

        Raises:
            DatabaseUnavailable, SchemaError: None could be reserved.
        """
        if not self.is_limited(ceiling):
            return Slots(limit)
        row = await self._run("reserve", limit=limit, window=_WINDOW_S, ceiling=ceiling)
        if row is None:
            raise SchemaError("pgherald.rate_limit has no row; run `pgherald install`")
        number, rate, wait = row
        if rate is None:
            if self._lowered_at:
                log.info("rate_limit_lifted")
            self._is_lowered, self._lowered_at = False, 0.0
            return Slots(limit)
        return Slots(number, wait, 1 / rate)

    async def refund(self, slots: Slots, used: int) -> None:
        """Release the slots that were reserved and not used."""
        if slots.interval and used < slots.number:
            await self._run("refund", unused=(slots.number - used) * slots.interval)

    def sent(self) -> None:
        """Record that the server has taken a message."""
        self._sent.append(asyncio.get_running_loop().time())

    async def throttled(self, detail: str, ceiling: float | None) -> None:
        """Halve the shared rate. Ignored if the database is unavailable, because nothing is claimed then.

        `detail` is the server's reply, for the log.
        """
        now = asyncio.get_running_loop().time()
        if self._is_lowered and now - self._lowered_at < _SAME_THROTTLING_S:
            return
        self._is_lowered, self._lowered_at = True, now
        with suppress(PgheraldError):
            if row := await self._run("throttled", sent=sum(at > now - 1.0 for at in self._sent), ceiling=ceiling):
                was, rate = row
                log.warning("rate_lowered", per_second=round(rate, 1), was=round(was, 1), reason=detail)

    async def _run(self, query: str, **values: Any) -> Any:
        with translate_errors():
            async with self._pool.connection() as conn, conn.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(_QUERIES[query], values)
                return await cursor.fetchone() if cursor.description else None
