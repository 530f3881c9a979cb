"""The status page: the overview, the history of a row, and the actions of an operator who is logged in."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import psycopg
from aiohttp import web

from listener.admin import events, history
from listener.config.keys import parse_key, show_key
from listener.config.rules import Rule
from listener.config.sections import Http
from listener.config.settings import Settings
from listener.db.connection import connect, tables_of
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.status.health import Health
from listener.status.overview_cache import OverviewCache
from listener.web.auth import AdminAuth
from listener.web.render import SECTIONS, Renderer, outage
from listener.web.stream import MAX_AGE_S, REFRESH_INTERVAL_S, OverviewStream

T = TypeVar("T")
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FOLDER = Path(__file__).parent / "static"
_ACTIONS: dict[str, events.Remedy] = {"retry": "retry", "sent": "resolve_as_sent", "resend": "resolve_as_resend"}
_NO_SECTIONS = dict.fromkeys(SECTIONS, "")
# Each history and each action opens connections of its own. The limit leaves the others to the daemon.
_MAX_COMMANDS = 2
# So many more wait for one of these connections. They would otherwise pile up while strangers ask faster than we answer.
_MAX_WAITING_COMMANDS = 20


class Page:
    """The handlers of the status page. `stream` sends its live updates."""

    def __init__(
        self, settings: Settings, http: Callable[[], Http], health: Health, overview_cache: OverviewCache
    ) -> None:
        self._settings = settings
        self._health = health
        self._overview_cache = overview_cache
        self._renderer = Renderer()
        self._auth = AdminAuth(lambda: http().admin_token)
        self.stream = OverviewStream(overview_cache, self._renderer, self._auth)
        self._commands = asyncio.Semaphore(_MAX_COMMANDS)
        self._commands_asked = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the page and of its stream."""
        return [
            web.get("/", self.overview),
            *self.stream.routes(),
            web.get("/explain", self.explain),
            web.get("/static/{name}", self.static),
            web.post("/login", self.login),
            web.post("/logout", self.logout),
            web.post(r"/events/{id:\d{1,18}}/{action}", self.change_event),
            web.post("/rules/{rule}/{action}", self.change_rule),
            web.post("/workers/retry", self.retry_mail_server),
        ]

    @property
    def _rules(self) -> dict[str, Rule]:
        return dict(self._health.rules)

    async def overview(self, request: web.Request) -> web.Response:
        """Show the overview. If the database does not answer, show the last one and why; without one, this daemon's parts."""
        cache = self._overview_cache
        answered = await cache.get(REFRESH_INTERVAL_S, fresh=REFRESH_INTERVAL_S, stale=MAX_AGE_S) is not None
        if cache.latest is None:
            parts = await self._health.parts()
            return self._render(request, "page", sections=_NO_SECTIONS, outage=outage(cache), parts=parts)
        sections = self._renderer.sections(cache.latest, self._auth.is_authorized(request))
        return self._render(request, "page", sections=sections, outage="" if answered else outage(cache))

    async def explain(self, request: web.Request) -> web.Response:
        """Show the history of the row ``?rule=…&key=…``, as `pgherald explain` does."""
        name, key = request.query.get("rule", ""), request.query.get("key", "")
        rule = self._rules.get(name)
        context: dict[str, Any] = {
            "rule": name,
            "key": key,
            "events": [],
            "paused_at": None,
            "suspended": None,
            "why": None,
        }
        if rule is None:
            return self._render(request, "explain", status=404, **context | {"why": f"there is no rule {name}"})
        try:
            stored = parse_key(rule, key)
            found = await self._in_thread(lambda conn: self._history(conn, name, rule, stored))
        except ValueError as exc:
            return self._render(request, "explain", status=400, **context | {"why": str(exc)})
        except PgheraldError as exc:
            status = 503 if isinstance(exc, DatabaseUnavailable) else 500
            return self._render(request, "explain", status=status, **context | {"why": str(exc)})
        status = 200 if found.events or found.exists else 404
        context |= {
            "key": show_key(rule, stored),
            "events": found.events,
            "why": found.why,
            "paused_at": found.paused_at,
            "suspended": found.suspended,
        }
        return self._render(request, "explain", status=status, **context)

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Serve one of the page's own files, and no other."""
        name = request.match_info["name"]
        if name not in _STATIC:
            raise web.HTTPNotFound
        body = (_FOLDER / name).read_bytes()
        return web.Response(
            body=body, content_type=_STATIC[name], charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    async def login(self, request: web.Request) -> web.Response:
        """Start a session for a client that sends the admin token."""
        # The form of our own page. aiohttp's `post()` fails for bodies that strangers make up.
        form = dict(parse_qsl((await request.read()).decode(errors="replace")))
        response = _redirect(request)
        if self._auth.log_in(request, form.get("token", ""), response):
            return response
        notice = "Wrong token."
        return self._render(request, "page", status=403, sections=_NO_SECTIONS, notice=notice)

    async def logout(self, request: web.Request) -> web.Response:
        """End the session."""
        response = _redirect(request)
        self._auth.log_out(request, response)
        return response

    async def change_event(self, request: web.Request) -> web.Response:
        """Retry an event, or settle one that is in doubt."""
        self._auth.check(request)
        action = _ACTIONS.get(request.match_info["action"])
        if action is None:
            raise web.HTTPNotFound
        number = int(request.match_info["id"])
        if not await self._act(lambda conn: events.apply(conn, action, [number], by="on the page")):
            raise web.HTTPConflict(text=f"Event {number} has changed its state since; reload the page.\n")
        return _redirect(request)

    async def change_rule(self, request: web.Request) -> web.Response:
        """Pause or resume a rule."""
        self._auth.check(request)
        rule, action = request.match_info["rule"], request.match_info["action"]
        if rule not in self._rules or action not in ("pause", "resume"):
            raise web.HTTPNotFound
        await self._act(lambda conn: events.pause(conn, rule) if action == "pause" else events.resume(conn, rule))
        return _redirect(request)

    async def retry_mail_server(self, request: web.Request) -> web.Response:
        """Let the daemons whose breaker is open try the mail server now."""
        self._auth.check(request)
        await self._act(events.retry_mail_server)
        return _redirect(request)

    def _history(self, conn: psycopg.Connection[Any], name: str, rule: Rule, key: str) -> history.RowHistory:
        with tables_of(conn, self._settings.database.lookup_url) as tables:
            return history.read_history(conn, tables, name, rule, key)

    async def _act(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        try:
            return await self._in_thread(work)
        except PgheraldError as exc:
            raise web.HTTPServiceUnavailable(text=f"{exc}\n") from exc

    async def _in_thread(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run the function of a command in a thread, on a connection that is opened for it.

        Raises:
            HTTPServiceUnavailable: too many others wait for theirs.
        """

        def run() -> T:
            with connect(self._settings.database.url) as conn:
                # A reader waits for the answer. Without a limit, two slow statements would block the page for all.
                conn.execute("SET statement_timeout = '10s'")
                return work(conn)

        if self._commands_asked >= _MAX_COMMANDS + _MAX_WAITING_COMMANDS:
            raise web.HTTPServiceUnavailable(text="Too many requests at the same time; try again in a few seconds.\n")
        self._commands_asked += 1
        try:
            async with self._commands:
                return await asyncio.to_thread(run)
        finally:
            self._commands_asked -= 1

    def _render(self, request: web.Request, name: str, status: int = 200, **context: Any) -> web.Response:
        shared = {
            "rule": "",
            "key": "",
            "notice": "",
            "outage": "",
            "parts": {},
            "rule_names": list(self._rules),
            "may_act": self._auth.is_authorized(request),
            "login_enabled": self._auth.enabled,
        }
        html = self._renderer.page(name, **shared | context)
        return web.Response(text=html, status=status, content_type="text/html", charset="utf-8")


def _redirect(request: web.Request) -> web.Response:
    # The location is relative: behind a proxy the page may have a path of its own, which an absolute one would leave.
    depth = request.path.count("/") - 1
    return web.Response(status=303, headers={"Location": "../" * depth or "."})
