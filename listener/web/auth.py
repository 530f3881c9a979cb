"""Authorization on the status page: only clients that know `http.admin_token` may act.

A browser logs in once and gets a session cookie. Scripts cannot read the cookie (HttpOnly), and pages of other sites do
not send it (SameSite=Strict). A script sends ``Authorization: Bearer TOKEN`` instead. Every action is a POST, and a POST
from another origin is refused.
"""

import hmac
import secrets
import time
from collections.abc import Callable

from aiohttp import web

from listener.errors import PgheraldError
from listener.outage import Outage
from listener.web.security import is_over_tls, same_origin

_COOKIE = "pgherald"
# One working day with a margin: an operator logs in once a shift.
_SESSION_S = 12 * 3600
# Each login adds a session. The limit bounds the memory; the oldest session ends first.
_MAX_SESSIONS = 100


class AdminAuth:
    """Check the admin token and keep the sessions of those who logged in with it.

    `token` returns the token in use, which a reload may replace. Sessions end with their token and with the process.
    """

    def __init__(self, token: Callable[[], str | None]) -> None:
        self._token = token
        self._sessions: dict[str, tuple[float, str | None]] = {}
        self._refused = Outage("login_refused", first=0.0, longest=0.0)

    @property
    def enabled(self) -> bool:
        """Return whether a token is configured; without one the page is read-only."""
        return self._token() is not None

    def is_authorized(self, request: web.Request) -> bool:
        """Return whether the request carries the token or the cookie of a session."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._matches(given.strip())
        end, token = self._sessions.get(request.cookies.get(_COOKIE, ""), (0.0, None))
        return end > time.monotonic() and token == self._token()

    def check(self, request: web.Request) -> None:
        """Refuse an action that is not authorized, or that a page of another site has sent.

        Raises:
            HTTPForbidden: the request may not act.
        """
        _check_origin(request)
        if not self.is_authorized(request):
            if self.enabled:
                raise web.HTTPForbidden(text="Not logged in; log in first, or send Authorization: Bearer TOKEN.\n")
            raise web.HTTPForbidden(text="The page is read-only; set [http] admin_token to allow actions.\n")

    def log_in(self, request: web.Request, given: str, response: web.Response) -> bool:
        """Start a session and set its cookie on `response`, if `given` is the token. Return whether it is."""
        if not same_origin(request) or not self._matches(given):
            return False
        session = secrets.token_urlsafe(32)
        now = time.monotonic()
        newest = list(self._sessions.items())[-_MAX_SESSIONS:]
        self._sessions = {name: (end, token) for name, (end, token) in newest if end > now}
        self._sessions[session] = now + _SESSION_S, self._token()
        response.set_cookie(
            _COOKIE, session, max_age=_SESSION_S, httponly=True, samesite="Strict", secure=is_over_tls(request)
        )
        return True

    def log_out(self, request: web.Request, response: web.Response) -> None:
        """End the request's session and delete its cookie, unless a page of another site asks for it.

        Raises:
            HTTPForbidden: the request comes from another site.
        """
        _check_origin(request)
        self._sessions.pop(request.cookies.get(_COOKIE, ""), None)
        response.del_cookie(_COOKIE, httponly=True, samesite="Strict")

    def _matches(self, given: str) -> bool:
        """Compare in constant time.

        The number of guesses is not limited: strangers could use up any limit, and lock the operator out. A token of 16
        random characters is beyond guessing, and the log says that somebody tries.
        """
        token = self._token()
        if token is None:
            return False
        if hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
            return True
        self._refused.failed(PgheraldError("a wrong token; if it was nobody of yours, look who can reach the port"))
        return False


def _check_origin(request: web.Request) -> None:
    if not same_origin(request):
        raise web.HTTPForbidden(text="This request comes from another site; send it from pgherald's own page.\n")
