"""Who may act on the page: who has the token of the configuration.

A login keeps it in a cookie that scripts cannot read and other sites' pages do not send (SameSite=Strict). What acts is
POST, and refused from another origin; a script sends ``Authorization: Bearer TOKEN`` instead.
"""

import hmac
import secrets
import time

from aiohttp import web

from listener.web.security import same_origin
from listener.web.token_bucket import TokenBucket

_COOKIE = "pgherald"
_LASTS = 12 * 3600
_SESSIONS = 100


class AdminAuth:
    def __init__(self, token: str | None) -> None:
        self._token = token
        self._sessions: dict[str, float] = {}
        self._guesses = TokenBucket(rate=0.2, burst=10)

    @property
    def exists(self) -> bool:
        return self._token is not None

    def open_to(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._fits(given.strip())
        return self._sessions.get(request.cookies.get(_COOKIE, ""), 0.0) > time.monotonic()

    def check(self, request: web.Request) -> None:
        """Raises `HTTPForbidden` for who may not act, and for a POST that another site's page has made."""
        if not same_origin(request):
            raise web.HTTPForbidden(text="Not from another site.\n")
        if not self.open_to(request):
            words = "Log in first." if self.exists else "Read-only: no http.admin_token is configured."
            raise web.HTTPForbidden(text=f"{words}\n")

    def log_in(self, request: web.Request, given: str, response: web.Response) -> bool:
        if not same_origin(request) or not self._fits(given):
            return False
        session = secrets.token_urlsafe(32)
        now = time.monotonic()
        self._sessions = {name: end for name, end in list(self._sessions.items())[-_SESSIONS:] if end > now}
        self._sessions[session] = now + _LASTS
        response.set_cookie(_COOKIE, session, max_age=_LASTS, httponly=True, samesite="Strict", secure=request.secure)
        return True

    def log_out(self, request: web.Request, response: web.Response) -> None:
        self._sessions.pop(request.cookies.get(_COOKIE, ""), None)
        response.del_cookie(_COOKIE, httponly=True, samesite="Strict")

    def _fits(self, given: str) -> bool:
        """In constant time, and for nobody when there was too much guessing."""
        if self._token is None or self._guesses.reached:
            return False
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            return True
        self._guesses.count()
        return False
