"""The URLs of webhooks: what a stranger sends costs little and changes nothing, and a provider learns what to send again."""

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from listener import metrics
from listener.bounces.providers import brevo as brevo_module
from listener.bounces.providers import table
from listener.bounces.providers.ses import Ses
from listener.bounces.providers.webhook import Webhook
from listener.bounces.record import Recorded
from listener.bounces.report import Report
from listener.config.sections import Bounces
from listener.errors import DatabaseUnavailable, RuleBroken, SchemaError
from listener.web import bounces as module
from listener.web.bounces import BounceWebhooks
from listener.web.token_bucket import TokenBucket
from tests.support import PATIENCE
from tests.support.webhooks import (
    KEY,
    TOKEN,
    FakeAmazon,
    basic,
    brevo,
    hard_bounces,
    postmark,
    sendgrid,
    sendgrid_headers,
)

POSTMARK = {"Authorization": basic(), "Content-Type": "application/json"}


class Site:
    """A server with the webhooks alone. `recorded` has the reports; `answers` replaces the result by message."""

    def __init__(self) -> None:
        self.recorded: list[Report] = []
        self.answers: dict[str, Recorded | Exception] = {}
        self.amazon = FakeAmazon()
        self.settings = Bounces.model_validate(dict(sent.setting for sent in hard_bounces().values()))
        self.health = SimpleNamespace(is_ready=True, rules={})
        self.client: ClientSession
        self.webhooks: BounceWebhooks

    async def record(self, *arguments: Any) -> Recorded:
        report: Report = arguments[-1]
        self.recorded.append(report)
        answer = self.answers.get(report.message, Recorded(True, "event 7: recorded", "rule", 7))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def post(self, name: str, body: bytes | None = None, **headers: str) -> ClientResponse:
        made, proof = hard_bounces()[name].make(KEY) if name in hard_bounces() else (b"{}", {})
        sent = {"Content-Type": "application/json", **proof, **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.client.post(
            f"/bounces/{name}", data=BytesIO(made if body is None else body), headers=sent
        ) as answer:
            await answer.read()
            return answer


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    site = Site()
    monkeypatch.setattr(table, "Ses", lambda: Ses(site.amazon))
    monkeypatch.setattr(module, "record", site.record)
    site.webhooks = BounceWebhooks(lambda: site.settings, site.health, None, None)  # type: ignore[arg-type]
    site.webhooks.secret = b"secret"
    app = web.Application(client_max_size=1000)
    app.add_routes(site.webhooks.routes())
    server = TestServer(app)
    await server.start_server(auto_decompress=False)
    async with ClientSession(server.make_url("")) as site.client:
        yield site
    await server.close()
    site.webhooks.close()


def counted(name: str, result: str) -> float:
    return (
        metrics.REGISTRY.get_sample_value("pgherald_webhook_requests_total", {"provider": name, "result": result}) or 0
    )


@pytest.mark.parametrize("name", hard_bounces())
async def test_a_bounce_of_each_provider_is_recorded(site: Site, name: str) -> None:
    before = counted(name, "recorded")
    with capture_logs() as logs:
        assert [(await site.post(name)).status for _ in range(2)] == [200, 200]
    assert [KEY in report.message for report in site.recorded] == [True, True]
    assert {report.kind for report in site.recorded} == {"hard"}
    assert counted(name, "recorded") == before + 2
    assert {(line["event"], line["provider"]) for line in logs} == {("bounce_recorded", name)}


@pytest.mark.parametrize("name", hard_bounces())
async def test_a_provider_that_is_not_configured_has_no_url(site: Site, name: str) -> None:
    site.settings = site.settings.model_copy(update={hard_bounces()[name].setting[0]: None})
    absent, unknown = await site.post(name), await site.post("other")
    assert (absent.status, unknown.status) == (404, 404)
    assert await absent.text() == await unknown.text()
    assert site.recorded == []
    assert site.amazon.fetched == []


@pytest.mark.parametrize("name", hard_bounces())
async def test_a_forged_request_is_refused_and_logged_once(site: Site, name: str) -> None:
    site.settings = Bounces(
        ses_topic="arn:aws:sns:eu-west-1:999999999999:x",
        postmark_token="x" * 16,
        # Another key of the same curve.
        sendgrid_key="MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==",
        mailgun_key="x" * 16,
        brevo_token="x" * 16,
    )
    with capture_logs() as logs:
        answers = [await site.post(name) for _ in range(3)]
    assert {answer.status for answer in answers} == {401}
    assert answers[0].headers["WWW-Authenticate"].startswith("Basic ")
    [line] = logs
    assert (line["event"], line["provider"], "example" in str(line), TOKEN in str(line)) == (
        "webhook_refused", name, False, False,
    )  # fmt: skip
    assert site.recorded == []
    assert site.amazon.fetched == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 200_000, b'{"Type": "x", "Type": "y"}', b"[]", b"1" * 9999]
)
async def test_a_malformed_body(site: Site, body: bytes) -> None:
    assert (await site.post("postmark", body)).status == 400
    # Without a proof it is not even read.
    assert (await site.post("postmark", body, Authorization="")).status == 401
    assert site.recorded == []


async def test_bodies_that_are_not_read(site: Site) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    compressed = [await site.post("postmark", bomb, Content_Encoding=coding) for coding in ("gzip", "deflate", "br")]
    assert [answer.status for answer in compressed] == [415, 415, 415]
    types = ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "x"]
    assert [(await site.post("postmark", Content_Type=type)).status for type in types] == [415] * 4
    assert (await site.post("ses", Content_Type="text/plain; charset=UTF-8")).status == 200
    assert (await site.post("postmark", b" " * (1024 * 1024 + 1))).status == 413
    # The limit of other pages does not apply.
    body = json.dumps(postmark(Content="x" * 900_000)).encode()
    assert (await site.post("postmark", body)).status == 200
    async with site.client.get("/bounces/postmark") as answer:
        assert answer.status == 405


async def test_a_slow_body(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_MAX_REQUESTS", 1)
    stop = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await stop.wait()

    async with site.client.post("/bounces/postmark", data=drip(), headers=POSTMARK) as answer:
        assert answer.status == 408
        stop.set()
    assert (await site.post("postmark")).status == 200


async def test_events_that_are_no_reports(site: Site) -> None:
    body = json.dumps(postmark("AutoResponder")).encode()
    assert (await site.post("postmark", body)).status == 200
    site.webhooks.secret = None
    assert (await site.post("postmark", body)).status == 200
    assert site.recorded == []


@pytest.mark.parametrize("event_id", [None, 7])
async def test_reports_that_change_nothing(site: Site, event_id: int | None) -> None:
    site.answers[KEY] = Recorded(False, "nothing", event_id=event_id)
    result = "ignored" if event_id else "unmatched"
    before = counted("postmark", result)
    with capture_logs() as logs:
        assert (await site.post("postmark")).status == 200
    assert counted("postmark", result) == before + 1
    assert logs == []


@pytest.mark.parametrize(("name", "status"), [("postmark", 503), ("brevo", 429)])
@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("away"), RuleBroken("[rules.x] bounced fails"), SchemaError("missing")]
)
async def test_a_failure_asks_for_the_request_again(site: Site, name: str, status: int, error: Exception) -> None:
    [report] = await _reports(site, name)
    site.answers[report.message] = error
    with capture_logs() as logs:
        answers = [await site.post(name) for _ in range(3)]
    assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(status, "60")}
    assert str(error) not in await answers[0].text()
    assert [(line["event"], line["error"]) for line in logs] == [("webhook_failed", str(error))]
    del site.answers[report.message]
    assert (await site.post(name)).status == 200


async def _reports(site: Site, name: str) -> list[Report]:
    assert (await site.post(name)).status == 200
    reports, site.recorded = site.recorded, []
    return reports


async def test_a_batch_of_which_a_part_fails(site: Site) -> None:
    body = json.dumps([sendgrid(message_id=name) for name in "abc"]).encode()
    site.answers["a"] = RuleBroken("fails")
    assert (await site.post("sendgrid", body, **sendgrid_headers(body))).status == 503
    # The others may be of other rules. A database that is away is left alone.
    assert [report.message for report in site.recorded] == ["a", "b", "c"]
    site.answers["b"] = DatabaseUnavailable("away")
    assert (await site.post("sendgrid", body, **sendgrid_headers(body))).status == 503
    assert [report.message for report in site.recorded[3:]] == ["a", "b"]
    site.answers.clear()
    assert (await site.post("sendgrid", body, **sendgrid_headers(body))).status == 200


@pytest.mark.parametrize("change", [{"secret": None}, {"ready": False}])
async def test_before_the_daemon_is_ready(site: Site, change: dict[str, Any]) -> None:
    if "secret" in change:
        site.webhooks.secret = None
    else:
        site.health.is_ready = False
    assert (await site.post("postmark")).status == 503
    assert site.recorded == []


async def test_too_many_requests(site: Site) -> None:
    for endpoint in site.webhooks._endpoints.values():
        endpoint.limit = TokenBucket(0.0, 2)
    for _ in range(5):
        assert (await site.post("postmark", Authorization=basic("junk"))).status == 401
    assert [(await site.post("postmark")).status for _ in range(3)] == [200, 200, 503]
    # Each provider has a limit of its own.
    assert (await site.post("brevo")).status == 200


async def test_a_slow_amazon_holds_up_nobody_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_REQUESTS", 2)
    reached, go = threading.Event(), threading.Event()

    def fetch(url: str) -> bytes:
        reached.set()
        assert go.wait(PATIENCE)
        return site.amazon(url)

    reader: Any = site.webhooks._endpoints["ses"].provider.read
    reader.__self__._sns._fetch = fetch
    try:
        waiting = [asyncio.create_task(site.post("ses")) for _ in range(2)]
        assert await asyncio.to_thread(reached.wait, PATIENCE)
        assert (await site.post("ses")).status == 503
        assert (await site.post("brevo")).status == 200
    finally:
        go.set()
    assert [(await task).status for task in waiting] == [200, 200]
    assert len(site.amazon.fetched) == 1


async def test_amazon_is_away(site: Site) -> None:
    site.amazon.error = OSError("away")
    assert (await site.post("ses")).status == 503
    site.amazon.error = None
    assert (await site.post("ses")).status == 200


async def test_a_large_batch_does_not_stop_the_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    turns, done = 0, False
    read = brevo_module.read

    def reading(webhook: Webhook, token: str) -> list[Report]:
        threads.append(threading.current_thread().name)
        return read(webhook, token)

    async def turn() -> None:
        nonlocal turns
        while not done:
            turns += bool(site.recorded)
            await asyncio.sleep(0)

    endpoint = site.webhooks._endpoints["brevo"]
    endpoint.provider = replace(endpoint.provider, read=reading)
    body = json.dumps([brevo("hard_bounce", key=str(n)) for n in range(2000)]).encode()
    turning = asyncio.create_task(turn())
    answer = await site.post("brevo", body)
    done = True
    await turning
    assert (answer.status, len(site.recorded)) == (200, 2000)
    assert threads[0].startswith("webhook brevo")
    # Other tasks run between two reports.
    assert turns >= 2000
