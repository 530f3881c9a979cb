"""The overview of one process, which all its readers share."""

import asyncio

import psycopg

from listener.db.errors import summary, translate_errors
from listener.db.pool import Pool
from listener.errors import PgheraldError
from listener.outage import Outage
from listener.status.overview import Overview, read_overview

# `Outage` wants a delay. It is unused here: the next reader causes the next query.
_RETRY_DELAY_S = 1.0


class OverviewCache:
    """Share one overview among all readers: at most one query runs at a time.

    `latest` is the last overview that was read, however old it is. `error` is why the last query failed, or None.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.latest: Overview | None = None
        self.error: str | None = None
        self._read_at = 0.0
        self._refresh: asyncio.Task[None] | None = None
        self._outage = Outage("overview_failed", first=_RETRY_DELAY_S, longest=_RETRY_DELAY_S)

    async def get(self, wait: float, *, fresh: float, stale: float) -> Overview | None:
        """Return an overview that is at most `fresh` seconds old.

        If the database does not answer within `wait` seconds, return the last overview, unless it is older than `stale`
        seconds. Then return None.
        """
        clock = asyncio.get_running_loop().time
        if self.latest is None or clock() - self._read_at >= fresh:
            if self._refresh is None or self._refresh.done():
                self._refresh = asyncio.create_task(self._read())
            await asyncio.wait([self._refresh], timeout=wait)
        return self.latest if self.latest is not None and clock() - self._read_at < stale else None

    @property
    def age(self) -> float:
        """Return the age of the last overview in seconds."""
        return asyncio.get_running_loop().time() - self._read_at

    async def close(self) -> None:
        """Cancel a query that is running."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    async def _read(self) -> None:
        started_at = asyncio.get_running_loop().time()
        try:
            with translate_errors():
                async with self._pool.connection() as conn:
                    self.latest, self._read_at = await read_overview(conn), started_at
        except (PgheraldError, psycopg.Error, OSError) as exc:
            self.error = summary(exc)
            self._outage.failed(exc)
        else:
            self.error = None
            self._outage.recovered()
