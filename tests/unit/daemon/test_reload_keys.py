"""Every key of the configuration: SIGHUP applies it, or the log names it as one that needs a restart."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from listener.address import parse_address, parse_mailbox
from listener.config.rules import default_rules
from listener.config.settings import NEEDS_RESTART, Settings
from listener.daemon.reload import Reloader
from listener.smtp.breaker import Breaker
from listener.transport import build
from tests.unit.daemon.test_reload import FakeDatabase, FakeWorker, reloaded

[(NAME, RULE)] = default_rules().items()
LINKED = {NAME: RULE.model_copy(update={"link": "/plans/{key}", "unsubscribe": "UPDATE public.users SET id = id"})}
HERE, THERE = parse_address("qa@example.org"), parse_address("jane@example.org")
TEMPLATES = "the test's own folder"
# Another value for each key. A key that is missing here fails the test: say whether SIGHUP applies it.
OTHER: dict[str, Any] = {
    "database.url": "host=other",
    "database.listen_url": "host=other",
    "database.lookup_url": "host=other",
    "smtp.url": "smtp://user:other@relay.example.org",
    "smtp.fallback_url": "smtp://second.example.org",
    "smtp.auth": "xoauth2",
    "smtp.oauth_token_url": "https://oauth.example.org/token",
    "smtp.oauth_client_id": "other",
    "smtp.oauth_client_secret": "other",
    "smtp.oauth_refresh_token": "other",
    "smtp.oauth_scope": "other",
    "smtp.rate": 3.0,
    "smtp.connections": 3,
    "smtp.ca_file": Path("other.pem"),
    "smtp.ehlo_name": "mail.example.org",
    "smtp.connect_timeout": 3.0,
    "smtp.command_timeout": 3.0,
    "smtp.data_timeout": 3.0,
    "smtp.dot_timeout": 3.0,
    "mail.sender": parse_mailbox("Other <other@example.org>"),
    "mail.envelope_from": parse_mailbox("bounces@example.org"),
    "mail.idempotency_header": "X-Other",
    "mail.templates": TEMPLATES,
    "mail.base_url": "https://other.example.org",
    "mail.unsubscribe_mailto": HERE,
    "mail.reply_to": (parse_mailbox("Help <help@example.org>"),),
    "mail.headers": {"Feedback-ID": "a:b:c:d"},
    "mail.transport": "console",
    "mail.directory": Path("/other"),
    "mail.allowed_recipients": ("@example.com",),
    "mail.redirect_to": HERE,
    "delivery.in_doubt": "hold",
    "delivery.max_attempts": 3,
    "delivery.give_up_after": "1d",
    "delivery.max_age": 3.0,
    "delivery.again_after": 3.0,
    "delivery.poll": 3.0,
    "delivery.lease": 3.0,
    "delivery.grace": 3.0,
    "http.listen": "127.0.0.1:1",
    "http.public_url": "https://mail.example.org",
    "http.allowed_hosts": ("pgherald.internal",),
    "http.admin_token": "correct-horse-battery",
    "bounces.ses_topic": "arn:aws:sns:eu-west-1:123456789012:bounces",
    "bounces.postmark_token": "correct-horse-battery",
    "bounces.sendgrid_key": "other",
    "bounces.mailgun_key": "correct-horse-battery",
    "bounces.brevo_token": "correct-horse-battery",
    "log.format": "json",
    "log.level": "debug",
    "rules": {NAME: LINKED[NAME].model_copy(update={"require": ("other",)})},
}
# Without these the other value has no effect.
NEEDED: dict[str, dict[str, Any]] = {
    "mail.directory": {"mail.transport": "file", "mail.directory": Path("/here")},
    **{
        f"smtp.oauth_{key}": {"smtp.oauth_token_url": "https://a.example/token"}
        for key in ("client_id", "client_secret", "refresh_token", "scope")
    },
}
# Pools, senders, loops, the socket and the log are made at the start by these.
RESTART = [f"database.{key}" for key in ("url", "listen_url", "lookup_url")]
RESTART += ["smtp.connections", "delivery.poll", "delivery.lease", "http.listen", "log.format", "log.level"]
# The parts that use these ask the reloader each time. test_reload_live.py shows that on a running daemon.
ASKED = ["delivery.in_doubt", "delivery.grace", "http.public_url", "http.allowed_hosts", "http.admin_token"]
ASKED += [key for key in OTHER if key.startswith("bounces.")]


def keys() -> list[str]:
    found = []
    for section, field in Settings.model_fields.items():
        fields = getattr(field.annotation, "model_fields", None)
        found += [f"{section}.{key}" for key in fields] if fields is not None else [section]
    return found


def with_keys(settings: Settings, changes: dict[str, Any]) -> Settings:
    for path, value in changes.items():
        section, _, key = path.partition(".")
        changed = getattr(settings, section).model_copy(update={key: value}) if key else value
        settings = settings.model_copy(update={section: changed})
    return settings


def effects(runtime: Any) -> dict[str, Any]:
    """Return what a runtime does, as far as a key can change it."""
    delivery, transport = runtime.delivery, runtime.transport
    row = {"place": "Café", "key": 7}
    composer = delivery._composer
    return {
        "transport": (type(transport), *(getattr(transport, name, None) for name in ("_server", "_tls", "_folder"))),
        "connections": getattr(getattr(transport, "_limit", None), "size", None),
        "sender": runtime.senders,
        "rate": runtime.max_rate,
        "message": composer.compose(NAME, "7", row, THERE, "7", datetime(2026, 1, 1, tzinfo=UTC)).octets,
        "recipients": (composer.recipients.route(THERE), composer.recipients.allows(THERE)),
        "policies": delivery.policies,
        "rules": dict(delivery.rules),
    }


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    monkeypatch.setattr(build, "tls_context", str)
    return FakeDatabase(monkeypatch)


def test_no_key_is_forgotten() -> None:
    assert sorted(OTHER) == sorted(keys())
    assert [f"{section}.{key}" for section, keys in NEEDS_RESTART.items() for key in keys] == RESTART


@pytest.mark.parametrize("key", OTHER)
async def test_a_key_is_applied_or_named(key: str, database: FakeDatabase, tmp_path: Path) -> None:
    value = OTHER[key]
    if value == TEMPLATES:
        (tmp_path / NAME).mkdir()
        (tmp_path / NAME / "body.txt.j2").write_text("Other {{ place }}")
        value = tmp_path
    before = with_keys(Settings(), {"rules": LINKED, **NEEDED.get(key, {})})
    after = with_keys(before, {key: value})
    assert before != after
    starting = Reloader(before, lambda: after, Breaker(), None)  # type: ignore[arg-type]
    worker: Any = FakeWorker()
    runtime = await starting.first()
    log = next(entry for entry in await reloaded(starting, worker) if entry["event"] != "mail_restricted")
    assert log["event"] == "reloaded"
    if key in RESTART:
        assert log["needs_restart"] == [key]
        assert starting.settings == before
        assert effects(worker.runtime) == effects(runtime)
    else:
        assert "needs_restart" not in log
        assert starting.settings == after
        # Links to unsubscribe are part of the message too.
        assert effects(worker.runtime) != effects(runtime) or key in ASKED
