"""The page for people: what goes on, live; the story of a row; and, for who has the token, what a person may do about it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from aiohttp import web

from listener.admin import events as remedy
from listener.admin import history as story
from listener.admin.events import Remedy
from listener.config.keys import parse_key, show_key
from listener.config.rules import Rule
from listener.config.settings import Settings
from listener.db.connection import connect, tables_of
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.status.health import Health
from listener.status.overview import OverviewCache
from listener.web.auth import AdminAuth
from listener.web.render import SECTIONS, Renderer

T = TypeVar("T")
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FOLDER = Path(__file__).parent
_EVERY = 1.0
_STALE = 5.0
_KEEP_ALIVE = 15.0
_READERS = 20
_REMEDIES: dict[str, Remedy] = {"retry": "retry", "sent": "resolve_as_sent", "resend": "resolve_as_resend"}
_NOTHING = dict.fromkeys(SECTIONS, "")


class Page:
    """`closing` ends the streams."""

    def __init__(self, settings: Settings, health: Health, overview_cache: OverviewCache) -> None:
        self.closing = asyncio.Event()
        self._url = settings.database.url
        self._settings = settings
        self._health = health
        self._overview_cache = overview_cache
        self._renderer = Renderer()
        self._auth = AdminAuth(settings.http.admin_token)
        self._readers = 0
        # Two at a time: whoever asks for many stories must not take the database's connections.
        self._free = asyncio.Semaphore(2)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.overview),
            web.get("/events", self.events, allow_head=False),
            web.get("/explain", self.explain),
            web.get("/static/{name}", self.static),
            web.post("/login", self.login),
            web.post("/logout", self.logout),
            web.post(r"/events/{id:\d{1,18}}/{action}", self.remedy),
            web.post("/rules/{rule}/{action}", self.rule),
        ]

    @property
    def _rules(self) -> dict[str, Rule]:
        worker = self._health.worker
        return dict(worker.delivery.rules if worker is not None else self._settings.rules)

    async def overview(self, request: web.Request) -> web.Response:
        may_act = self._auth.open_to(request)
        seen = await self._overview_cache.get(_EVERY, fresh=_EVERY, stale=_STALE)
        sections = self._renderer.sections(seen, may_act) if seen is not None else _NOTHING
        return self._answer(request, "page", sections=sections, away=seen is None)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The sections that have changed, as server-sent events."""
        if self._readers >= _READERS:
            raise web.HTTPServiceUnavailable(text=f"{_READERS} read this already.\n")
        self._readers += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await self._stream(response, self._auth.open_to(request))
        except ConnectionError:
            # The reader has left.
            pass
        finally:
            self._readers -= 1
        return response

    async def _stream(self, response: web.StreamResponse, may_act: bool) -> None:
        clock = asyncio.get_running_loop().time
        shown: dict[str, str] = {}
        said = clock()
        while not self.closing.is_set():
            seen = await self._overview_cache.get(_EVERY, fresh=0.9 * _EVERY, stale=_STALE)
            sections = self._renderer.sections(seen, may_act) if seen is not None else {}
            news = {name: html for name, html in sections.items() if shown.get(name) != html}
            if seen is None:
                await response.write(b"event: away\ndata:\n\n")
                shown, said = {}, clock()
            elif news:
                await response.write(f"event: sections\ndata: {json.dumps(news)}\n\n".encode())
                shown, said = sections, clock()
            elif clock() - said > _KEEP_ALIVE:
                await response.write(b":\n\n")
                said = clock()
            try:
                async with asyncio.timeout(_EVERY):
                    await self.closing.wait()
            except TimeoutError:
                continue

    async def explain(self, request: web.Request) -> web.Response:
        name, key = request.query.get("rule", ""), request.query.get("key", "")
        rule = self._rules.get(name)
        context: dict[str, Any] = {"rule": name, "key": key, "events": [], "paused_at": None, "why": None}
        if rule is None:
            return self._answer(request, "explain", status=404, **context | {"why": f"there is no rule {name}"})
        try:
            stored = parse_key(rule, key)
            told = await self._ask(lambda conn: self._story(conn, name, rule, stored))
        except ValueError as exc:
            return self._answer(request, "explain", status=400, **context | {"why": str(exc)})
        except PgheraldError as exc:
            status = 503 if isinstance(exc, DatabaseUnavailable) else 500
            return self._answer(request, "explain", status=status, **context | {"why": str(exc)})
        status = 200 if told.events or told.exists else 404
        context |= {"key": show_key(rule, stored), "events": told.events, "why": told.why, "paused_at": told.paused_at}
        return self._answer(request, "explain", status=status, **context)

    async def static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _STATIC:
            raise web.HTTPNotFound
        body = (_FOLDER / name).read_bytes()
        return web.Response(
            body=body, content_type=_STATIC[name], charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    async def login(self, request: web.Request) -> web.Response:
        form = await request.post()
        response = _back(request)
        if self._auth.log_in(request, str(form.get("token", "")), response):
            return response
        return self._answer(
            request,
            "page",
            status=403,
            sections=_NOTHING,
            away=False,
            notice="That is not the token, or not yet again.",
        )

    async def logout(self, request: web.Request) -> web.Response:
        response = _back(request)
        self._auth.log_out(request, response)
        return response

    async def remedy(self, request: web.Request) -> web.Response:
        self._auth.check(request)
        chosen = _REMEDIES.get(request.match_info["action"])
        if chosen is None:
            raise web.HTTPNotFound
        number = int(request.match_info["id"])
        if not await self._do(lambda conn: remedy.apply(conn, chosen, [number], by="on the page")):
            raise web.HTTPConflict(text=f"Event {number} is no longer in a state for that.\n")
        return _back(request)

    async def rule(self, request: web.Request) -> web.Response:
        self._auth.check(request)
        rule, action = request.match_info["rule"], request.match_info["action"]
        if rule not in self._rules or action not in ("pause", "resume"):
            raise web.HTTPNotFound
        await self._do(lambda conn: remedy.pause(conn, rule) if action == "pause" else remedy.resume(conn, rule))
        return _back(request)

    async def _do(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        try:
            return await self._ask(work)
        except PgheraldError as exc:
            raise web.HTTPServiceUnavailable(text=f"{exc}\n") from exc

    def _story(self, conn: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> story.RowHistory:
        with tables_of(conn, self._settings.database.lookup_url) as tables:
            return story.read_history(conn, tables, name, rule, key)

    async def _ask(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What the commands do, as they do it: on a connection of its own, in a thread."""

        def ask() -> T:
            with connect(self._url) as conn:
                conn.execute("SET statement_timeout = '10s'")
                return work(conn)

        async with self._free:
            return await asyncio.to_thread(ask)

    def _answer(self, request: web.Request, name: str, status: int = 200, **context: Any) -> web.Response:
        shared = {"rule": "", "key": "", "notice": "", "away": False, "names": list(self._rules)}
        html = self._renderer.page(
            name, **shared | {"may_act": self._auth.open_to(request), "has_door": self._auth.exists} | context
        )
        return web.Response(text=html, status=status, content_type="text/html", charset="utf-8")


def _back(request: web.Request) -> web.Response:
    # Relative, so that it holds behind a proxy that puts this below a path of its own.
    depth = request.path.count("/") - 1
    return web.Response(status=303, headers={"Location": "../" * depth or "."})
