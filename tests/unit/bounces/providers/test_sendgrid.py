"""SendGrid: the signature over the raw body, and a batch of events."""

import json
from typing import Any

import pytest

from listener.bounces.providers.sendgrid import read
from listener.bounces.providers.webhook import Forged, Webhook
from listener.bounces.report import BadReport, Report
from tests.support.webhooks import MESSAGE_ID, sendgrid, sendgrid_headers, sendgrid_key, webhook


def read_events(*events: object) -> list[Report]:
    body = json.dumps(events).encode()
    return read(Webhook(sendgrid_headers(body), body), sendgrid_key())


@pytest.mark.parametrize(
    ("event", "more", "expected"),
    [
        ("bounce", {}, "hard"),
        ("bounce", {"type": "blocked"}, "soft"),
        ("bounce", {"type": "expired"}, "soft"),
        ("bounce", {"type": None}, "soft"),
        ("dropped", {"reason": "Bounced Address"}, "hard"),
        ("dropped", {"reason": "Invalid"}, "hard"),
        ("dropped", {"reason": "Spam Reporting Address"}, "complaint"),
        ("dropped", {"reason": "Unsubscribed Address"}, "soft"),
        ("dropped", {}, "soft"),
        ("spamreport", {}, "complaint"),
        *((event, {}, None) for event in ("processed", "deferred", "delivered", "open", "click", "unsubscribe", "new")),
    ],
)
def test_classes(event: str, more: dict[str, Any], expected: str | None) -> None:
    assert [report.kind for report in read_events(sendgrid(event, **more))] == ([expected] if expected else [])


def test_a_batch() -> None:
    reports = read_events(sendgrid("open"), sendgrid(), sendgrid("delivered"), sendgrid("spamreport", "<x@y>"))
    assert [(report.message, report.detail) for report in reports] == [
        (MESSAGE_ID, "bounce bounce 5.0.0 500 unknown recipient"),
        ("<x@y>", "spamreport"),
    ]
    assert len(read_events(*[sendgrid()] * 3000)) == 3000


BODY = json.dumps([sendgrid()]).encode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Signature", value) for value in ("", "x", "=", "AAAA", "\udcff", "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6Zk")),
        *(("Timestamp", value) for value in ("", "1600112503", "\udcff")),
    ],
)  # fmt: skip
def test_forged(name: str, value: str) -> None:
    headers = sendgrid_headers(BODY) | {f"X-Twilio-Email-Event-Webhook-{name}": value}
    with pytest.raises(Forged):
        read(Webhook(headers, BODY), sendgrid_key())


def test_the_raw_body_is_signed() -> None:
    with pytest.raises(Forged):
        read(Webhook(sendgrid_headers(BODY), BODY + b" "), sendgrid_key())
    with pytest.raises(Forged):
        read(webhook(BODY), sendgrid_key())


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"[", b"null", b'[{"a": 1, "a": 2}]'])
def test_no_batch(body: bytes) -> None:
    with pytest.raises(BadReport):
        read(Webhook(sendgrid_headers(body), body), sendgrid_key())
