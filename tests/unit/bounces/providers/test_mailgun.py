"""Mailgun: the signature in the body, its age, and which failures are final."""

from typing import Any

import pytest

from listener.bounces.providers.mailgun import read
from listener.bounces.providers.webhook import Forged
from listener.bounces.report import BadReport
from tests.support.webhooks import KEY, MAILGUN_KEY, mailgun, webhook

HOUR = 3600


@pytest.mark.parametrize(
    ("event", "more", "expected"),
    [
        ("failed", {}, "hard"),
        ("failed", {"reason": "suppress-bounce"}, "hard"),
        ("failed", {"reason": "suppress-complaint"}, "complaint"),
        ("failed", {"reason": "old"}, "soft"),
        ("failed", {"reason": "generic"}, "soft"),
        ("failed", {"reason": None}, "soft"),
        ("failed", {"severity": "temporary"}, None),
        ("failed", {"severity": None}, None),
        ("complained", {}, "complaint"),
        *((event, {}, None) for event in ("accepted", "delivered", "opened", "clicked", "unsubscribed", "new")),
    ],
)
def test_classes(event: str, more: dict[str, Any], expected: str | None) -> None:
    reports = read(webhook(mailgun(event, **more)), MAILGUN_KEY)
    assert [report.kind for report in reports] == ([expected] if expected else [])


def test_a_report() -> None:
    [report] = read(webhook(mailgun()), MAILGUN_KEY)
    assert report.message == f"{KEY}@example.org"
    assert report.detail == "failed bounce 5.1.1 no such user"


@pytest.mark.parametrize(
    ("age", "accepted"), [(0, True), (8 * HOUR, True), (-60, True), (13 * HOUR, False), (-HOUR, False)]
)
def test_the_age_of_the_signature(age: float, accepted: bool) -> None:
    request, now = webhook(mailgun(at=1_800_000_000)), 1_800_000_000 + age
    if accepted:
        assert len(read(request, MAILGUN_KEY, lambda: now)) == 1
    else:
        with pytest.raises(Forged, match="too old"):
            read(request, MAILGUN_KEY, lambda: now)


@pytest.mark.parametrize("member", ["timestamp", "token", "signature"])
@pytest.mark.parametrize("value", ["", "0", None, 7, ["x"], "\ud800", "9" * 5000])
def test_forged(member: str, value: object) -> None:
    event = mailgun()
    event["signature"][member] = value
    with pytest.raises(Forged):
        read(webhook(event), MAILGUN_KEY)


def test_another_key() -> None:
    with pytest.raises(Forged, match="not of \\[bounces\\] mailgun_key"):
        read(webhook(mailgun(key="another")), MAILGUN_KEY)


@pytest.mark.parametrize("name", ["signature", "event-data"])
@pytest.mark.parametrize("value", [None, [], "x"])
def test_no_event(name: str, value: object) -> None:
    with pytest.raises(BadReport, match="not an event"):
        read(webhook(mailgun() | {name: value}), MAILGUN_KEY)


@pytest.mark.parametrize("message", [None, "x", {"headers": []}])
def test_no_message(message: object) -> None:
    with pytest.raises(BadReport, match="not an event"):
        read(webhook(mailgun(message=message)), MAILGUN_KEY)
    assert read(webhook(mailgun(message={"headers": {}}, **{"delivery-status": 7})), MAILGUN_KEY)[0].message == ""
