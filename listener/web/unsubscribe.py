"""The page ``/unsubscribe/TOKEN``, the target of List-Unsubscribe (RFC 8058). It is the only page that recipients open.

GET shows a button and changes nothing, because mail scanners follow links. POST runs the rule's statement. It needs no
cookie and no redirect, ignores its body, and may come any number of times.

The answer is the same for a row that exists and for one that does not. A stranger learns nothing from it. A link that was
damaged beyond repair is answered with 400: only the signature decides that, not the database.
"""

import secrets

from aiohttp import web

from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, PgheraldError
from listener.logs import log
from listener.mail.unsubscribe import Subscription, read_token, unsubscribe
from listener.outage import Outage
from listener.status.health import Health
from listener.web.render import Renderer
from listener.web.security import UNSUBSCRIBE
from listener.web.token_bucket import TokenBucket
from listener.web.wording import Wording, wording

# Mail providers send the requests of many users from one address, so the limit is for all requests together. A burst
# follows a large mailing. 20 statements a second are little load for a database. Only a valid token counts, so that
# junk does not use up the limit.
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
        self._damaged = Outage("unsubscribe_link_damaged", first=0.0, longest=0.0)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this page, for the HTTP server."""
        # A damaged link may contain a slash or a line end, and a gateway may write all of it in upper case. A proxy may
        # put a second slash in front.
        path = f"/{{page:(?i:/*{UNSUBSCRIBE.strip('/')})}}/{{token:(?s:.*)}}"
        return [web.get(path, self.get), web.post(path, self.post)]

    async def get(self, request: web.Request) -> web.Response:
        """Answer GET with a button."""
        words = wording(request)
        if self.key is not None:
            subscription = self._read(self.key, request)
            if subscription is None:
                return self._refuse(words)
            words = wording(request, subscription.language)
        return self._page(words, words.unsubscribe, words.question, with_button=True)

    async def post(self, request: web.Request) -> web.Response:
        """Answer POST: run the statement of the token's rule, or ask for another try in a minute."""
        words = wording(request)
        if self.key is None:
            return self._try_again(words)
        subscription = self._read(self.key, request)
        if subscription is None:
            return self._refuse(words)
        words = wording(request, subscription.language)
        if self._limit.empty or not self._health.is_ready:
            return self._try_again(words)
        self._limit.take()
        try:
            await unsubscribe(self._pool, self._health.rules, subscription)
        except DatabaseUnavailable as exc:
            log.warning("unsubscribe_failed", error=str(exc))
            return self._try_again(words)
        except PgheraldError as exc:
            log.error("unsubscribe_failed", error=str(exc))
            return self._try_again(words)
        return self._page(words, words.done, words.done_text)

    def _read(self, key: bytes, request: web.Request) -> Subscription | None:
        # A character that was replaced by ? makes the rest of the token a query.
        text = f"{request.match_info['token']}?{request.query_string}"
        subscription = read_token(key, text)
        if subscription is None:
            error = PgheraldError("the link is incomplete, or not one of ours; look how the mail program shows it")
            self._damaged.failed(error, method=request.method, characters=len(text))
        return subscription

    def _refuse(self, words: Wording) -> web.Response:
        return self._page(words, words.incomplete, words.incomplete_text, status=400)

    def _try_again(self, words: Wording) -> web.Response:
        response = self._page(words, words.later, words.later_text, status=503)
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        return response

    def _page(
        self, words: Wording, title: str, text: str, *, with_button: bool = False, status: int = 200
    ) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        html = self._renderer.page(
            "unsubscribe", words=words, title=title, text=text, with_button=with_button, nonce=nonce
        )
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        return web.Response(
            text=html,
            status=status,
            content_type="text/html",
            charset="utf-8",
            # The token is in the URL. Without this header a link on the page would pass it on.
            headers={
                "Content-Security-Policy": policy,
                "Referrer-Policy": "no-referrer",
                "Content-Language": words.language,
            },
        )
