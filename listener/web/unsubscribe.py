"""/unsubscribe/TOKEN: what List-Unsubscribe in a mail leads to (RFC 8058). The only part that is meant for the public.

GET shows a button and changes nothing, because mail scanners follow links. POST runs the rule's statement, however often
it comes, whatever its body says, without a cookie or a redirect. The answer is the same whether there is such a row, or
was, or the token is nobody's.
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

# Mail providers press the button for many of their users from one address, so it is not counted by address.
_RATE = 20.0
_BURST = 200


class UnsubscribePage:
    """`key`: the tokens' signing key, known once the database has been reached."""

    def __init__(self, health: Health, pool: Pool) -> None:
        self.key: bytes | None = None
        self._health = health
        self._pool = pool
        self._renderer = Renderer()
        self._limit = TokenBucket(_RATE, _BURST)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"{PUBLIC}{{token}}", self.ask), web.post(f"{PUBLIC}{{token}}", self.take_back)]

    async def ask(self, _: web.Request) -> web.Response:
        return self._page("Unsubscribe", "Shall no more mails of this kind be sent to you?", asks=True)

    async def take_back(self, request: web.Request) -> web.Response:
        if self._limit.empty or self.key is None or not self._health.is_ready:
            return self._later()
        self._limit.take()
        subscription = read_token(self.key, request.match_info["token"])
        try:
            if subscription is not None:
                await unsubscribe(self._pool, self._health.rules, subscription)
        except DatabaseUnavailable as exc:
            log.warning("unsubscribe_failed", error=str(exc))
            return self._later()
        except PgheraldError as exc:
            log.error("unsubscribe_failed", error=str(exc))
            return self._later()
        return self._page("You are unsubscribed", "No more mails of this kind will be sent to you.")

    def _later(self) -> web.Response:
        response = self._page("Not now", "This cannot be done at the moment. Please try again in a minute.", status=503)
        response.headers["Retry-After"] = "60"
        return response

    def _page(self, title: str, words: str, *, asks: bool = False, status: int = 200) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        html = self._renderer.page("unsubscribe", title=title, words=words, asks=asks, nonce=nonce)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        return web.Response(
            text=html,
            status=status,
            content_type="text/html",
            charset="utf-8",
            # The token is in the address: it goes nowhere else.
            headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"},
        )
