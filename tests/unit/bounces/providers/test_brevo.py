"""Brevo: a token, single events and batches."""

import pytest

from listener.bounces.providers.brevo import read
from listener.bounces.providers.webhook import Forged
from listener.bounces.report import BadReport, Report
from tests.support.webhooks import KEY, MESSAGE_ID, TOKEN, brevo, webhook


def read_event(event: object) -> list[Report]:
    return read(webhook(event, Authorization=f"Bearer {TOKEN}"), TOKEN)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("hard_bounce", "hard"), ("invalid_email", "hard"), ("soft_bounce", "soft"), ("blocked", "soft"),
        ("error", "soft"), ("spam", "complaint"), ("complaint", "complaint"), ("request", None), ("delivered", None),
        ("deferred", None), ("opened", None), ("unsubscribed", None), ("new_event", None), (["spam"], None),
    ],
)  # fmt: skip
def test_classes(event: str, expected: str | None) -> None:
    assert [report.kind for report in read_event(brevo(event))] == ([expected] if expected else [])


def test_a_report() -> None:
    [report] = read_event(brevo())
    assert KEY in report.message
    assert report.detail == "hard_bounce 550 5.1.1 no such user"
    [kept] = read_event({"event": "spam", "message-id": MESSAGE_ID})
    assert kept == Report(MESSAGE_ID, kept.kind, "spam")


def test_a_batch() -> None:
    assert [report.kind for report in read_event([brevo("spam"), brevo("click"), brevo()])] == ["complaint", "hard"]


@pytest.mark.parametrize("body", [1, None, ["x"], [brevo(), None]])
def test_no_event(body: object) -> None:
    with pytest.raises(BadReport, match="not an event"):
        read_event(body)


def test_another_token() -> None:
    with pytest.raises(Forged):
        read(webhook(brevo(), Authorization="Bearer another"), TOKEN)
