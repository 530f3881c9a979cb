"""A limit on HTTP connections, so that the database, the mail servers and the log always have descriptors."""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

from aiohttp import web

from listener.errors import PgheraldError
from listener.outage import Outage

# 20 streams of the page and 16 requests of each of five providers are 100. Probes, scrapers and readers are few.
_MAX_CONNECTIONS = 200
# A quarter of all descriptors. The usual limit is 1024; the daemon needs up to 200 for mail servers and some twenty more.
_MAX_SHARE = 0.25


def max_connections() -> int:
    """Return how many HTTP connections may be open at a time, by the limit of this process (RLIMIT_NOFILE)."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(2, min(_MAX_CONNECTIONS, int(descriptors * _MAX_SHARE)))


class LimitedRunner(web.AppRunner):
    """An aiohttp runner that closes the oldest connections once half of `limit` are open, and refuses those beyond.

    A connection that is closed so ends at once if it has no request, and else after its response. A probe therefore still
    gets its answer while a stranger holds hundreds of idle connections.
    """

    def __init__(self, app: web.Application, limit: int, **options: Any) -> None:
        super().__init__(app, **options)
        self._limit = limit
        self._closing: set[object] = set()
        self._crowded = Outage("http_connections_limited", first=0.0, longest=0.0)

    @property
    def server(self) -> Callable[[], asyncio.Protocol] | None:  # type: ignore[override]
        """The factory of protocols: the event loop calls it for each connection that it has accepted."""
        return None if super().server is None else self._accept

    def _accept(self) -> asyncio.Protocol:
        server = super().server
        assert server is not None
        # In the order in which they were opened.
        connections = server.connections
        self._closing.intersection_update(connections)
        if len(connections) >= self._limit // 2:
            error = f"{len(connections)} connections are open, so that the oldest are closed; look who opens them"
            self._crowded.failed(PgheraldError(error), limit=self._limit)
            oldest = next((each for each in connections if each not in self._closing), None)
            if oldest is not None:
                self._closing.add(oldest)
                oldest.close()
        return server() if len(connections) < self._limit else _Refused()


class _Refused(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
