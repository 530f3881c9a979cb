"""``POST /bounces/PROVIDER``, the target of the webhooks of mail providers. It is public, as `/unsubscribe/` is.

A request changes something only after its provider's check. Strangers can send anything. The size of a body, the time for it
and the number of requests are therefore limited, each for one provider. Bodies are read in a thread of the provider's.

The answer tells the provider whether to send the request again. Recording a report twice changes nothing, so the whole
batch is asked for again if a part of it failed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import hdrs, web

from listener import metrics
from listener.bounces.providers.table import Provider, providers
from listener.bounces.providers.webhook import Forged, Webhook
from listener.bounces.record import record
from listener.bounces.report import BadReport, Report
from listener.config.sections import Bounces
from listener.db.pool import Pool
from listener.errors import PgheraldError, RuleBroken
from listener.logs import log
from listener.outage import Outage
from listener.status.health import Health
from listener.web.security import BOUNCES
from listener.web.token_bucket import TokenBucket

# SNS sends at most 256 KiB, and SendGrid some thousand events.
_MAX_BODY_BYTES = 1024 * 1024
_BODY_TIMEOUT_S = 10.0
# Of one provider at a time. With the size of a body, this limits the memory.
_MAX_REQUESTS = 16
# Only requests with reports count, and the provider's check has accepted these.
_REQUESTS_PER_S = 20.0
_MAX_BURST_REQUESTS = 200
_RETRY_AFTER_S = 60


class BounceWebhooks:
    """The webhooks of all providers.

    `settings` returns the settings in use. `outbox` and `statements` are the pools of `record`. `secret` is the database's,
    or None until the daemon has reached the database.
    """

    def __init__(self, settings: Callable[[], Bounces], health: Health, outbox: Pool, statements: Pool) -> None:
        self.secret: bytes | None = None
        self._settings = settings
        self._health = health
        self._pools = (outbox, statements)
        self._endpoints = {name: _Endpoint(name, provider) for name, provider in providers().items()}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the webhooks, for the HTTP server."""
        return [web.post(f"{BOUNCES}{{provider}}", self.post)]

    def close(self) -> None:
        """Stop the threads. A thread that fetches something ends within seconds."""
        for endpoint in self._endpoints.values():
            endpoint.thread.shutdown(wait=False, cancel_futures=True)

    async def post(self, request: web.Request) -> web.Response:
        """Record the reports of a webhook, and answer whether the provider should send it again."""
        endpoint = self._endpoints.get(request.match_info["provider"])
        setting = None if endpoint is None else getattr(self._settings(), endpoint.provider.key)
        if endpoint is None or setting is None:
            return web.Response(status=404, text="There is no such webhook.\n")
        if endpoint.requests >= _MAX_REQUESTS:
            return endpoint.try_again()
        endpoint.requests += 1
        try:
            reports = await endpoint.read(request, setting)
            return await self._record(endpoint, reports)
        except web.HTTPException:
            metrics.webhook(endpoint.name, "refused")
            raise
        except BadReport as exc:
            return endpoint.refuse(exc)
        except PgheraldError as exc:
            endpoint.failing.failed(exc, provider=endpoint.name)
            return endpoint.try_again()
        finally:
            endpoint.requests -= 1

    async def _record(self, endpoint: "_Endpoint", reports: list[Report]) -> web.Response:
        if not reports:
            return endpoint.accept("ignored")
        if self.secret is None or not self._health.is_ready or endpoint.limit.empty:
            return endpoint.try_again()
        endpoint.limit.take()
        changed = known = 0
        broken: RuleBroken | None = None
        for report in reports:
            try:
                recorded = await record(*self._pools, self._health.rules, self.secret, report)
            except RuleBroken as exc:
                # The other events of the batch may belong to other rules.
                broken = exc
                continue
            known += recorded.event_id is not None
            changed += recorded.changed
            if recorded.changed:
                log.info("bounce_recorded", provider=endpoint.name, rule=recorded.rule, detail=recorded.line)
            # A report on somebody else's email is done without waiting. Thousands of them must not stop the loop.
            await asyncio.sleep(0)
        if broken is not None:
            raise broken
        return endpoint.accept("recorded" if changed else "ignored" if known else "unmatched")


class _Endpoint:
    """The URL of one provider: its limits, its thread and its answers."""

    def __init__(self, name: str, provider: Provider) -> None:
        self.name = name
        self.provider = provider
        self.requests = 0
        # A certificate that is fetched slowly must not hold up other providers. Nor may it take the threads in which
        # asyncio resolves names.
        self.thread = ThreadPoolExecutor(1, f"webhook {name}")
        self.limit = TokenBucket(_REQUESTS_PER_S, _MAX_BURST_REQUESTS)
        self.failing = Outage("webhook_failed", first=0.0, longest=0.0)
        self._refused = Outage("webhook_refused", first=0.0, longest=0.0)

    async def read(self, request: web.Request, setting: str) -> list[Report]:
        """Return the reports of a request, after the provider's check.

        Raises:
            web.HTTPException: The body is too large, too slow, compressed or of another type.
            BadReport, Unavailable: See `listener.bounces.providers`.
        """
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise web.HTTPUnsupportedMediaType(text="The body must not be compressed.\n")
        if request.content_type not in self.provider.content_types:
            raise web.HTTPUnsupportedMediaType(text=f"The body must be {self.provider.content_types[-1]}.\n")
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await request.clone(client_max_size=_MAX_BODY_BYTES).read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        webhook = Webhook(request.headers, body)
        return await asyncio.get_running_loop().run_in_executor(self.thread, self.provider.read, webhook, setting)

    def accept(self, result: str) -> web.Response:
        """Answer that the request is done. Mailgun takes no other status than 200 for that."""
        metrics.webhook(self.name, result)
        self.failing.recovered()
        return web.Response()

    def refuse(self, error: BadReport) -> web.Response:
        """Answer that the request is forged or invalid. The log says so once in a while."""
        metrics.webhook(self.name, "refused")
        self._refused.failed(error, provider=self.name)
        if isinstance(error, Forged):
            # RFC 9110 15.5.2. A client that has the password in its URL may wait for the challenge.
            challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="pgherald", charset="UTF-8"'}
            return web.Response(status=401, text="The request is not authentic.\n", headers=challenge)
        return web.Response(status=400, text="The request cannot be read.\n")

    def try_again(self) -> web.Response:
        """Answer that the provider should send the request again."""
        metrics.webhook(self.name, "failed")
        headers = {hdrs.RETRY_AFTER: str(_RETRY_AFTER_S)}
        return web.Response(status=self.provider.retry_status, text="Try again later.\n", headers=headers)
