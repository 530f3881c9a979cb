"""How fast all daemons of one database together hand over mail: as configured, or as slow as a server asks for.

A reply that throttles halves the rate, and time raises it again (additive increase, multiplicative decrease, RFC 5681).
The rate and the next sending slot are one row in the database. Slots are reserved before events are claimed, so that
nobody claims what he may not send at once: consent is asked within a second or two of the sending.
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
# Seconds ahead for which slots are reserved: a claim and its lookup go before the first.
_WINDOW_S = 0.5
# As long as the first throttling reply stands for all.
_SAME_THROTTLING_S = 2.0


@dataclass(frozen=True, slots=True)
class Slots:
    """So many mails may be sent: the first in `wait` seconds, each `interval` seconds after the one before.

    None: ask again in `wait` seconds.
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
        self._sent: deque[float] = deque(maxlen=10_000)

    def is_limited(self, ceiling: float | None) -> bool:
        """Return whether an email needs a sending slot."""
        return self._is_lowered or ceiling is not None

    async def reserve(self, limit: int, ceiling: float | None) -> Slots:
        """Reserve up to `limit` slots.

        Raises:
            DatabaseUnavailable, SchemaError: none could be reserved.
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
        """Give back what was reserved and not needed."""
        if slots.interval and used < slots.number:
            await self._run("refund", unused=(slots.number - used) * slots.interval)

    def sent(self) -> None:
        """The server has taken a mail."""
        self._sent.append(asyncio.get_running_loop().time())

    async def throttled(self, detail: str, ceiling: float | None) -> None:
        """The server wants less. While the database is away nothing is claimed, and so nothing need be slower."""
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
