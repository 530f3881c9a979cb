"""The site: what is served, and where; it comes and goes with the daemon and never takes it along."""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from listener.config.settings import Settings
from listener.db.pools import opened, overview_pool, unsubscribe_pool
from listener.errors import ConfigError
from listener.logs import log
from listener.notify.listener import Listener
from listener.smtp.breaker import Breaker
from listener.status.health import Health
from listener.status.overview import OverviewCache
from listener.web.page import Page
from listener.web.probes import Probes
from listener.web.security import check_request, set_security_headers
from listener.web.unsubscribe import UnsubscribePage

_LARGEST_BODY = 16 * 1024
# At the end, nobody waits for who still reads.
_GRACE = 1.0


class HttpServer:
    """All that a daemon serves; it has its own connections to the database, two at most, that nothing else waits for."""

    def __init__(self, settings: Settings, health: Health, listener: Listener, breaker: Breaker) -> None:
        self._http = settings.http
        self._overview_pool = overview_pool(settings.database.url)
        self._unsubscribe_pool = unsubscribe_pool(settings.database.url)
        self._overview_cache = OverviewCache(self._overview_pool)
        self._page = Page(settings, health, self._overview_cache)
        self._consent = UnsubscribePage(health, self._unsubscribe_pool)
        app = web.Application(
            middlewares=[check_request(self._hosts(), urlsplit(settings.http.public_url).hostname)],
            client_max_size=_LARGEST_BODY,
        )
        app.on_response_prepare.append(set_security_headers)
        for part in (Probes(health, self._overview_cache, listener, breaker), self._page, self._consent):
            app.add_routes(part.routes())
        self._untold: Callable[[], None] | None = None
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE, keepalive_timeout=30)

    def signs_with(self, key: bytes) -> None:
        """The key of the tokens in List-Unsubscribe, which is in the database."""
        self._consent.key = key

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """There before the database is, so that somebody can be told that it is not.

        Raises:
            ConfigError: the address was set by hand and cannot be had. The default gives way.
        """
        async with opened(self._overview_pool, self._unsubscribe_pool):
            try:
                await self._open()
                yield
            finally:
                self._page.closing.set()
                await self._runner.cleanup()
                await self._overview_cache.close()

    def tell(self) -> None:
        """Say in the log where it is, once: not before it is known that the daemon will run, or wait."""
        if self._untold is not None:
            self._untold()
            self._untold = None

    def _hosts(self) -> tuple[str, ...]:
        address = self._http.address
        return (*self._http.allowed_hosts, *((address[0],) if address else ()))

    async def _open(self) -> None:
        if self._http.address is None:
            return
        # What aiohttp notices of strangers' broken requests is no trouble of ours.
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        host, port = self._http.address
        await self._runner.setup()
        try:
            try:
                await self._listen(host, port)
            except OSError as exc:
                if self._http.chosen:
                    taken = "is taken" if exc.errno == errno.EADDRINUSE else f"cannot be had: {exc.strerror or exc}"
                    raise ConfigError(f"[http] listen: {self._http.listen} {taken}") from exc
                await self._listen(host, 0)
        except OSError as exc:
            # Without having been asked for: the mails matter more.
            self._untold = partial(log.warning, "http_unavailable", error=str(exc))
            return
        name, number = self._runner.addresses[0][:2]
        url = f"http://{f'[{name}]' if ':' in name else name}:{number}"
        self._untold = partial(log.info, "http_listening", url=url)

    async def _listen(self, host: str, port: int) -> None:
        """On all addresses of `host`, or on none. Raises `OSError`."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with ExitStack() as failing:
            # Not by the loop: uvloop says nothing when somebody else was quicker between bind() and listen().
            sockets = [
                failing.enter_context(socket.create_server(address, family=family))
                for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found)
            ]
            failing.pop_all()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
