"""Live updates of the status page, as server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json

from aiohttp import web

from listener.status.overview_cache import OverviewCache
from listener.web.auth import AdminAuth
from listener.web.render import Renderer, outage

# The page is redrawn at most once a second. All readers share one query.
REFRESH_INTERVAL_S = 1.0
# An overview older than this is not shown as live: the page says that the database does not answer.
MAX_AGE_S = 5.0
# A comment line keeps proxies from closing an idle stream. The HTML standard suggests one every 15 seconds or so.
_KEEP_ALIVE_INTERVAL_S = 15.0
# Each reader holds a connection and is sent the sections that changed. More browsers than this are a mistake.
_MAX_READERS = 20


class OverviewStream:
    """Send each reader the sections of the page that have changed."""

    def __init__(self, overview_cache: OverviewCache, renderer: Renderer, auth: AdminAuth) -> None:
        self.closing = asyncio.Event()
        """Ends all streams once it is set."""
        self._overview_cache = overview_cache
        self._renderer = renderer
        self._auth = auth
        self._readers = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the one route of the stream."""
        return [web.get("/events", self.events, allow_head=False)]

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream until the reader leaves or the server closes."""
        if self._readers >= _MAX_READERS:
            raise web.HTTPServiceUnavailable(
                text=f"{_MAX_READERS} browsers have this page open already; close one of them.\n"
            )
        self._readers += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await self._send_changes(response, self._auth.is_authorized(request))
        except ConnectionError:
            # The reader has closed the page.
            pass
        finally:
            self._readers -= 1
        return response

    async def _send_changes(self, response: web.StreamResponse, may_act: bool) -> None:
        clock = asyncio.get_running_loop().time
        shown: dict[str, str] = {}
        sent_at = clock()
        while not self.closing.is_set():
            overview = await self._overview_cache.get(
                REFRESH_INTERVAL_S, fresh=0.9 * REFRESH_INTERVAL_S, stale=MAX_AGE_S
            )
            sections = self._renderer.sections(overview, may_act) if overview is not None else {}
            changed = {name: html for name, html in sections.items() if shown.get(name) != html}
            if overview is None:
                await response.write(
                    f"event: unavailable\ndata: {json.dumps(outage(self._overview_cache))}\n\n".encode()
                )
                shown, sent_at = {}, clock()
            elif changed:
                await response.write(f"event: sections\ndata: {json.dumps(changed)}\n\n".encode())
                shown, sent_at = sections, clock()
            elif clock() - sent_at > _KEEP_ALIVE_INTERVAL_S:
                await response.write(b":\n\n")
                sent_at = clock()
            try:
                async with asyncio.timeout(REFRESH_INTERVAL_S):
                    await self.closing.wait()
            except TimeoutError:
                continue
