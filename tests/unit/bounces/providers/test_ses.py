"""SES: both formats of its notifications, and the headers that lead back to the message."""

from typing import Any

import pytest

from listener.bounces.providers.ses import Ses
from listener.bounces.report import BadReport, Report
from tests.support.webhooks import KEY, MESSAGE_ID, TOPIC, FakeAmazon, confirmation, ses, sns, webhook


def read(event: object) -> list[Report]:
    return Ses(FakeAmazon()).read(webhook(sns(event)), TOPIC)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ses(), "hard"),
        (ses(bounceType="Transient"), "soft"),
        (ses(bounceType="Undetermined"), "soft"),
        (ses(bounceType=None), "soft"),
        (ses("Complaint"), "complaint"),
        (ses("Complaint", complaintFeedbackType=None), "complaint"),
        (ses("Complaint", complaintFeedbackType="not-spam"), None),
        (ses("Reject", reason="Bad content"), "soft"),
        *((ses(kind), None) for kind in ("Delivery", "Send", "Open", "Click", "DeliveryDelay", "Received", "New")),
    ],
)
def test_classes(event: dict[str, Any], expected: str | None) -> None:
    published = event | {"eventType": event["notificationType"]}
    del published["notificationType"]
    for form in (event, published):
        assert [report.kind for report in read(form)] == ([expected] if expected else [])


def test_a_report() -> None:
    [report] = read(ses())
    assert report.message == f"{MESSAGE_ID} {MESSAGE_ID}"
    assert report.detail == "Permanent General smtp; 550 5.1.1 <jane@example.com>... User unknown"


def test_only_headers_with_our_key_are_read() -> None:
    event = ses()
    event["mail"]["commonHeaders"] = None
    event["mail"]["headers"] = [
        {"name": "Subject", "value": "not-this"}, {"name": "X-Pgherald-Key", "value": KEY}, {"name": 7}, None, {}
    ]  # fmt: skip
    assert [report.message for report in read(event)] == [KEY]
    event["mail"]["headers"] = "x"
    assert [report.message for report in read(event)] == [""]


@pytest.mark.parametrize("text", ["Successfully validated SNS topic for Amazon SES event publishing.", "", "[]", "7"])
def test_text_that_is_no_event(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize("change", [{"bounce": None}, {"mail": []}, {"mail": None}])
def test_no_event_of_ses(change: dict[str, Any]) -> None:
    with pytest.raises(BadReport, match="not an event"):
        read(ses() | change)
    assert read(ses(bouncedRecipients=[None, 7, {}]))[0].detail == "Permanent General"
    assert read(ses(bouncedRecipients=7))[0].detail == "Permanent General"


def test_a_confirmation_is_no_report() -> None:
    assert Ses(FakeAmazon()).read(webhook(confirmation()), TOPIC) == []
