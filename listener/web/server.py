"""The daemon's HTTP server: the socket, the routes, and their connections to the database."""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from aiohttp import web

from listener.config.sections import Http
from listener.config.settings import Settings
from listener.db.pools import bounce_pool, opened, overview_pool, statement_pool
from listener.errors import PgheraldError
from listener.logs import log
from listener.mail.unsubscribe import signing_key
from listener.notify.listener import Listener
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.status.overview_cache import OverviewCache
from listener.web.bounces import BounceWebhooks
from listener.web.connections import ConnectionLimit, LimitedRunner, max_connections
from listener.web.page import Page
from listener.web.probes import Probes
from listener.web.security import check_request, set_security_headers
from listener.web.unsubscribe import UnsubscribePage

# Far above any body that is read: a login form, or the one-click POST of mail providers (RFC 8058). Webhooks have their
# own limit.
_MAX_BODY_BYTES = 16 * 1024
# The daemon does not wait longer for open requests when it stops.
_SHUTDOWN_TIMEOUT_S = 1.0
# Probes and scrapes come every 5 to 15 s and should find their connection open. A request's head gets this long too.
_KEEP_ALIVE_S = 30


class HttpServer:
    """Serve the probes, the metrics, the status page, the unsubscribe page and the webhooks of mail providers.

    The server has pools of its own with one connection each. A slow page never takes a connection from delivery. `used`
    returns the settings in use, which a reload may replace.
    """

    def __init__(
        self, settings: Settings, used: Callable[[], Settings], health: Health, listener: Listener, breaker: Breaker
    ) -> None:
        def http() -> Http:
            return used().http

        self._http = settings.http
        self._overview_pool = overview_pool(settings.database.url)
        self._unsubscribe_pool = statement_pool(settings.database.lookups)
        # Statements that take long must not hold up those who unsubscribe.
        self._bounce_pools = (bounce_pool(settings.database.url), statement_pool(settings.database.lookups))
        self._overview_cache = OverviewCache(self._overview_pool)
        self._page = Page(settings, http, health, self._overview_cache)
        self._unsubscribe = UnsubscribePage(health, self._unsubscribe_pool)
        self._bounces = BounceWebhooks(lambda: used().bounces, health, *self._bounce_pools)
        limit = ConnectionLimit(max_connections())
        app = web.Application(middlewares=[limit.middleware, check_request(http)], client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(set_security_headers)
        probes = Probes(health, self._overview_cache, listener, breaker)
        for part in (probes, self._page, self._unsubscribe, self._bounces):
            app.add_routes(part.routes())
        self._pending_log: Callable[[], None] | None = None
        self._runner = LimitedRunner(
            app,
            limit,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            keepalive_timeout=_KEEP_ALIVE_S,
            # Nobody compresses what we read, and a few kilobytes could become gigabytes.
            auto_decompress=False,
        )

    def set_secret(self, secret: bytes) -> None:
        """Set the database's secret, which is known only later. It leads from tokens and Message-IDs to events."""
        self._unsubscribe.key = signing_key(secret)
        self._bounces.secret = secret

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Serve until the block ends. The probes answer before the database can be reached.

        If `[http] listen` is not set and its default port is taken, the server uses any free port. If none can be
        bound, the daemon runs without HTTP.

        Raises:
            PgheraldError: the address of `[http] listen` cannot be bound.
        """
        async with opened(self._overview_pool, self._unsubscribe_pool, *self._bounce_pools):
            try:
                await self._open()
                yield
            finally:
                self._page.stream.closing.set()
                await self._runner.cleanup()
                self._bounces.close()
                await self._overview_cache.close()

    def log_address(self) -> None:
        """Log the address once. The daemon calls this when it is ready, or when it starts to wait for the database."""
        if self._pending_log is not None:
            self._pending_log()
            self._pending_log = None

    async def _open(self) -> None:
        if self._http.address is None:
            return
        # aiohttp logs malformed requests as errors. Port scanners send many, and nobody can act on them.
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        host, port = self._http.address
        await self._runner.setup()
        try:
            try:
                await self._listen(host, port)
            except OSError as exc:
                if self._http.chosen:
                    if exc.errno == errno.EADDRINUSE:
                        why = "is in use; choose another port, or stop the program that uses it"
                    else:
                        why = f"cannot be bound: {exc.strerror or exc}; use an address of this host"
                    # Not a ConfigError: the port or the address may be free at the next start.
                    raise PgheraldError(f"[http] listen: {self._http.listen} {why}") from exc
                await self._listen(host, 0)
        except OSError as exc:
            # The operator has not asked for this port. Delivery matters more than the page.
            self._pending_log = partial(log.warning, "http_unavailable", error=str(exc))
            return
        name, number = self._runner.addresses[0][:2]
        url = f"http://{f'[{name}]' if ':' in name else name}:{number}"
        self._pending_log = partial(log.info, "http_listening", url=url)

    async def _listen(self, host: str, port: int) -> None:
        """Listen on all addresses of `host`, or on none. Raises `OSError`."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with ExitStack() as failing:
            # We bind and listen ourselves: if another process takes the port between bind() and listen(), uvloop
            # reports nothing.
            sockets = [
                failing.enter_context(socket.create_server(address, family=family))
                for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found)
            ]
            failing.pop_all()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
