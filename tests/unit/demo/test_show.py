"""The demo's lines and its verdict, from messages and plans that are made by hand."""

from datetime import UTC, datetime

import pytest

from listener.demo.catcher import CaughtMessage
from listener.demo.plans import Plan, Tally
from listener.demo.show import _arrived, _sum_up


def tally(*plans: Plan) -> Tally:
    return Tally({plan.id: plan for plan in plans}, {plan.email: plan for plan in plans if plan.email is not None})


def caught(recipient: str, arrived: float = 2.5) -> CaughtMessage:
    content = b"Subject: Verified\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nCongratulations!\r\nMore\r\n"
    return CaughtMessage("", [recipient], content, arrived, datetime.now(UTC))


SENT = "a@example.org"


@pytest.fixture
def lines() -> list[str]:
    return []


def test_a_message_is_shown_with_the_time_from_its_commit(lines: list[str]) -> None:
    found = tally(Plan(1, SENT, "Café", "email", committed=2.4))
    _arrived(found, caught(SENT), lines.append)
    _arrived(found, caught(SENT), lines.append)
    assert lines[0].split() == ["email", SENT, "100.0", "ms", "Verified", "|", "Congratulations!"]
    assert "ms" not in lines[1], "the second message has no commit of its own"
    assert found.latencies_ms == [pytest.approx(100.0)]


@pytest.mark.parametrize(
    ("arrivals", "settled", "fine"),
    [
        ([SENT], {7}, True),
        ([], {7}, False),
        ([SENT, SENT], {7}, False),
        ([SENT], set(), False),
        ([SENT, "b@example.org"], {7}, False),
    ],
    ids=["as expected", "lost", "sent twice", "not skipped", "sent without consent"],
)
def test_the_verdict(lines: list[str], arrivals: list[str], settled: set[int], fine: bool) -> None:
    found = tally(Plan(1, SENT, "Café", "email"), Plan(2, "b@example.org", "Café", "no_consent"))
    for recipient in arrivals:
        _arrived(found, caught(recipient), lambda line: None)
    found.settled |= settled
    assert _sum_up(found, lines.append) is fine
    assert ("1 of 1 emails arrived, each once; 1 of 1 events skipped" in lines[0]) is fine
