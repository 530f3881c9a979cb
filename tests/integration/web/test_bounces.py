"""A mail provider reports to the running daemon, and the rule's statement runs for the row of the email."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from listener.bounces.providers import table
from listener.bounces.providers.ses import Ses
from listener.config.sections import Bounces
from listener.config.settings import load
from listener.db.pools import bounce_pool, opened, statement_pool
from listener.db.schema import read_secret
from listener.web.bounces import BounceWebhooks
from tests.support.command import Pgherald
from tests.support.configuration import configuration
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.web import ANY_PORT, Client
from tests.support.webhooks import CERTIFICATE, FakeAmazon, confirmation, hard_bounces, ses, sns

SECTIONS = """
[http]
public_url = "https://mail.example.org"
[mail]
from = "no-reply@example.org"
"""
BOUNCED = """
  UPDATE public.users AS u SET email_notifications_enabled = false
    FROM public.dateplan AS d WHERE u.id = d.user_id AND d.id = ANY (%(keys)s::bigint[]) AND %(class)s = 'hard'"""
SETTINGS = {f"PGHERALD_BOUNCES_{sent.setting[0].upper()}": sent.setting[1] for sent in hard_bounces().values()}
# SES needs Amazon's certificate, and has a test of its own.
PROVIDERS = [name for name in hard_bounces() if name != "ses"]


def send(database: Database, mail: MailServer, pgherald: Pgherald, number: int) -> list[str]:
    """Send emails, and return the keys in their Message-IDs."""
    configuration(pgherald.folder, SECTIONS, bounced=BOUNCED)
    database.verify(*(database.add_plan("Café", f"{n}@example.org") for n in range(number)))
    assert pgherald("run", "--once").returncode == 0
    by_recipient = sorted(mail.wait_for(number), key=lambda message: message.recipient)
    return [str(message.email["Message-ID"])[1:].partition("@")[0] for message in by_recipient]


def consents(database: Database) -> list[bool]:
    return [row[0] for row in database.execute("SELECT email_notifications_enabled FROM public.users ORDER BY email")]


def test_reports_of_each_provider(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    keys = send(database, mail, pgherald, len(PROVIDERS) + 1)
    with pgherald.daemon(env={**ANY_PORT, **SETTINGS}) as daemon:
        client = Client(daemon)

        def post(name: str, body: bytes, headers: Any, host: str = "mail.example.org") -> int:
            return client.post(
                f"/bounces/{name}", body.decode(), **{"Content-Type": "application/json", "Host": host, **headers}
            ).status

        for n, name in enumerate(PROVIDERS):
            body, headers = hard_bounces()[name].make(keys[n])
            # Without its proof, it changes nothing.
            assert post(name, body.replace(b'"signature": "', b'"signature": "0'), {}) == 401
            assert consents(database)[n] is True
            # The provider sends it, and again.
            assert [post(name, body, headers) for _ in range(2)] == [200, 200]
            assert consents(database)[n] is False
            assert post(name, body, headers, host="evil.example") == 421
            # An email of somebody else with the same account.
            assert post(name, *hard_bounces()[name].make("a" * 26)) == 200
        assert consents(database) == [False] * len(PROVIDERS) + [True]
        assert post("ses", *hard_bounces()["mailgun"].make(keys[-1])) == 401
        assert post("other", b"{}", {}) == 404
        bomb = {"Content-Encoding": "gzip", "Authorization": "Bearer x"}
        assert post("brevo", b"{}", bomb) == 415

        # The statement fails: the provider has to come again, and nothing is recorded meanwhile.
        body, headers = hard_bounces()["brevo"].make(keys[-1])
        database.execute("ALTER TABLE public.users RENAME COLUMN email_notifications_enabled TO other")
        assert post("brevo", body, headers) == 429
        daemon.wait_event("webhook_failed", provider="brevo")
        database.execute("ALTER TABLE public.users RENAME COLUMN other TO email_notifications_enabled")
        assert post("brevo", body, headers) == 200
        assert consents(database) == [False] * (len(PROVIDERS) + 1)

        results = {name: value for name, value in client.metrics().items() if "webhook_requests" in name}
        assert results['pgherald_webhook_requests_total{provider="mailgun",result="recorded"}'] == 1
        assert results['pgherald_webhook_requests_total{provider="mailgun",result="ignored"}'] == 1
        assert results['pgherald_webhook_requests_total{provider="mailgun",result="unmatched"}'] == 1
        assert results['pgherald_webhook_requests_total{provider="ses",result="refused"}'] == 1
        log = "\n".join(daemon.lines)
        assert len([event for event in daemon.events if event["event"] == "bounce_recorded"]) == len(PROVIDERS) + 1
        assert not [secret for secret in SETTINGS.values() if secret in log]
        assert "jane@" not in log


async def test_a_report_of_ses(
    database: Database, mail: MailServer, pgherald: Pgherald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [key] = send(database, mail, pgherald, 1)
    rules = load(pgherald.folder / "pgherald.toml").rules
    amazon = FakeAmazon()
    monkeypatch.setattr(table, "Ses", lambda: Ses(amazon))
    settings = Bounces.model_validate(dict([hard_bounces()["ses"].setting]))
    health: Any = SimpleNamespace(is_ready=True, rules=rules)
    async with opened(outbox := bounce_pool(database.url), statements := statement_pool(database.url)):
        webhooks = BounceWebhooks(lambda: settings, health, outbox, statements)
        with database.connect() as conn:
            webhooks.secret = read_secret(conn)
        app = web.Application()
        app.add_routes(webhooks.routes())
        async with TestClient(TestServer(app)) as client:

            async def post(message: object) -> int:
                headers = {"Content-Type": "text/plain; charset=UTF-8"}
                async with client.post("/bounces/ses", data=json.dumps(message), headers=headers) as answer:
                    return answer.status

            bounce = ses(message_id=f"<{key}@example.org>")
            assert await post(confirmation()) == 200
            assert await post(sns(bounce, sign=False)) == 401
            assert await post(sns(bounce, TopicArn="arn:aws:sns:eu-west-1:999999999999:x")) == 401
            assert consents(database) == [True]
            assert [await post(sns(bounce)) for _ in range(2)] == [200, 200]
            assert consents(database) == [False]
        webhooks.close()
    assert [url for url in amazon.fetched if "Action=" not in url] == [CERTIFICATE]
