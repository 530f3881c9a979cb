"""The site: what is served, and where; it comes and goes with the daemon and never takes it along."""

import errno
import logging
from urllib.parse import urlsplit

from aiohttp import web

from listener.breaker import Breaker
from listener.config import Settings
from listener.errors import ConfigError
from listener.health import Health
from listener.listen import Listener
from listener.logs import log
from listener.overview import Glance
from listener.web.guard import dress, guard
from listener.web.page import Page
from listener.web.vitals import Vitals

_LARGEST_BODY = 16 * 1024
# At the end, nobody waits for who still reads.
_GRACE = 1.0


class Site:
    def __init__(
        self, settings: Settings, health: Health, glance: Glance, listener: Listener, breaker: Breaker
    ) -> None:
        self._http = settings.http
        self._app = web.Application(
            middlewares=[guard(self._hosts(), urlsplit(settings.http.public_url).hostname)],
            client_max_size=_LARGEST_BODY,
        )
        self._app.on_response_prepare.append(dress)
        self._app.add_routes(Vitals(health, glance, listener, breaker).routes())
        self._page = Page(settings, health, glance)
        self._app.add_routes(self._page.routes())
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=_GRACE, keepalive_timeout=30)

    def _hosts(self) -> tuple[str, ...]:
        address = self._http.address
        return (*self._http.hosts, *((address[0],) if address else ()))

    async def open(self) -> None:
        """Listen where it is configured.

        Raises:
            ConfigError: that address was set by hand and cannot be had. The default gives way.
        """
        if self._http.address is None:
            return
        # What aiohttp notices of strangers' broken requests is no trouble of ours.
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        host, port = self._http.address
        await self._runner.setup()
        try:
            try:
                await web.TCPSite(self._runner, host, port).start()
            except OSError as exc:
                if self._http.chosen:
                    taken = "is taken" if exc.errno == errno.EADDRINUSE else f"cannot be had: {exc.strerror or exc}"
                    raise ConfigError(f"[http] listen: {self._http.listen} {taken}") from exc
                await web.TCPSite(self._runner, host, 0).start()
        except OSError as exc:
            # Without having been asked for: the mails matter more.
            log.warning("http_off", error=str(exc))
            return
        name, number = self._runner.addresses[0][:2]
        log.info("http_listening", url=f"http://{f'[{name}]' if ':' in name else name}:{number}")

    async def close(self) -> None:
        self._page.closing.set()
        await self._runner.cleanup()
