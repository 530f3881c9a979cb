"""Postmark: a token, types of bounces, and the key in the metadata."""

import pytest

from listener.bounces.providers.postmark import read
from listener.bounces.providers.webhook import Forged
from listener.bounces.report import BadReport, Report
from tests.support.webhooks import KEY, TOKEN, basic, postmark, webhook


def read_event(event: object) -> list[Report]:
    return read(webhook(event, Authorization=basic()), TOKEN)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("HardBounce", "hard"), ("BadEmailAddress", "hard"), ("SpamComplaint", "complaint"), ("SoftBounce", "soft"),
        ("Transient", "soft"), ("Blocked", "soft"), ("SpamNotification", "soft"), ("DMARCPolicy", "soft"),
        ("AutoResponder", None), ("Subscribe", None), ("ChallengeVerification", None), ("NewType", None), (7, None),
    ],
)  # fmt: skip
def test_classes(kind: str, expected: str | None) -> None:
    assert [report.kind for report in read_event(postmark(kind))] == ([expected] if expected else [])


def test_a_report() -> None:
    [report] = read_event(postmark())
    assert report.message == KEY
    assert report.detail == "HardBounce smtp;550 5.1.1 The email account that you tried to reach does not exist"


@pytest.mark.parametrize("record", ["Delivery", "Open", "Click", "SubscriptionChange", None])
def test_other_events(record: object) -> None:
    assert read_event(postmark(RecordType=record)) == []


def test_the_content_is_not_read() -> None:
    [report] = read_event(postmark(Metadata={}, Content=f"Message-ID: <{KEY}@example.org>"))
    assert report.message == ""
    assert read_event(postmark(Metadata=None))[0].message == ""


def test_the_token_comes_first() -> None:
    with pytest.raises(Forged):
        read(webhook(b"{", Authorization=basic("another")), TOKEN)
    with pytest.raises(BadReport):
        read(webhook(b"{", Authorization=basic()), TOKEN)
