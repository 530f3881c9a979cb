"""The page ``/unsubscribe/TOKEN``, the target of List-Unsubscribe (RFC 8058). It is the only public page.

GET shows a button and changes nothing, because mail scanners follow links. POST runs the rule's statement. It needs no
cookie and no redirect, ignores its body, and may come any number of times.

The answer is the same for a row that exists, for one that does not, and for an invalid token. A stranger learns nothing
from it.
"""

import secrets

from aiohttp import web

from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.mail.unsubscribe import read_token, unsubscribe
from listener.status.health import Health
from listener.web.render import Renderer
from listener.web.security import PUBLIC
from listener.web.token_bucket import TokenBucket

# Mail providers send the requests of many users from one address, so the limit is for all requests together. A burst
# follows a large mailing. 20 statements a second are little load for a database.
_REQUESTS_PER_S = 20.0
_MAX_BURST_REQUESTS = 200
_RETRY_AFTER_S = 60


class UnsubscribePage:
    """Answers the requests of recipients, mail providers and scanners.

    `key` is the key that signs the tokens. It is None until the daemon has reached the database.
    """

    def __init__(self, health: Health, pool: Pool) -> None:
        self.key: bytes | None = None
        self._health = health
        self._pool = pool
        self._renderer = Renderer()
        self._limit = TokenBucket(_REQUESTS_PER_S, _MAX_BURST_REQUESTS)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this page, for the HTTP server."""
        return [web.get(f"{PUBLIC}{{token}}", self.get), web.post(f"{PUBLIC}{{token}}", self.post)]

    async def get(self, _: web.Request) -> web.Response:
        """Answer GET with a button. A token is not even read."""
        return self._page("Unsubscribe", "Do you want to stop receiving these emails?", with_button=True)

    async def post(self, request: web.Request) -> web.Response:
        """Answer POST: run the statement of the token's rule, or ask for another try in a minute."""
        if self._limit.empty or self.key is None or not self._health.is_ready:
            return self._try_again()
        self._limit.take()
        subscription = read_token(self.key, request.match_info["token"])
        try:
            if subscription is not None:
                await unsubscribe(self._pool, self._health.rules, subscription)
        except DatabaseUnavailable as exc:
            log.warning("unsubscribe_failed", error=str(exc))
            return self._try_again()
        except PgheraldError as exc:
            log.error("unsubscribe_failed", error=str(exc))
            return self._try_again()
        return self._page("You are unsubscribed", "You will not receive these emails any more.")

    def _try_again(self) -> web.Response:
        response = self._page(
            "Please try again", "We could not process your request. Please try again in a minute.", status=503
        )
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        return response

    def _page(self, title: str, text: str, *, with_button: bool = False, status: int = 200) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        html = self._renderer.page("unsubscribe", title=title, text=text, with_button=with_button, nonce=nonce)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        return web.Response(
            text=html,
            status=status,
            content_type="text/html",
            charset="utf-8",
            # The token is in the URL. Without this header a link on the page would pass it on.
            headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"},
        )
