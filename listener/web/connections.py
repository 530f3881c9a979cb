"""A limit on HTTP connections, so that the database, the mail servers and the log always have descriptors."""

import asyncio
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

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


class ConnectionLimit:
    """At most `limit` connections. Once half of them are open, the oldest one without a request gives way to each new one.

    At the limit the oldest gives way even if it has a request, which goes on without a reader. A probe therefore gets its
    answer whatever a stranger holds open: idle connections, or requests whose bodies never arrive.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._busy: set[object] = set()
        self._closing: set[object] = set()
        self._crowded = Outage("http_connections_limited", first=0.0, longest=0.0)

    @property
    def middleware(self) -> Middleware:
        """The middleware that tells connections with a request from idle ones."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                self._busy.discard(request.protocol)

        return middleware

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol of a connection that the event loop has just accepted."""
        self._closing.intersection_update(server.connections)
        # In the order in which they were opened.
        connections = [each for each in server.connections if each not in self._closing]
        if len(connections) >= self._limit // 2:
            error = f"{len(connections)} connections are open, so that the oldest are closed; look who opens them"
            self._crowded.failed(PgheraldError(error), limit=self._limit)
            oldest = next((each for each in connections if each not in self._busy), None)
            if oldest is None and len(connections) >= self._limit:
                oldest = connections[0]
            if oldest is not None:
                self._closing.add(oldest)
                oldest.force_close()
        return server()


class LimitedRunner(web.AppRunner):
    """A runner of aiohttp with a limit on connections."""

    def __init__(self, app: web.Application, limit: ConnectionLimit, **options: Any) -> None:
        super().__init__(app, **options)
        self._limit = limit

    @property
    def server(self) -> Callable[[], asyncio.Protocol] | None:  # type: ignore[override]
        """The factory of protocols, which the event loop calls for each connection."""
        server = super().server
        return None if server is None else partial(self._limit.accept, server)
