"""The decision about an event: without its row, with its row, and after the mail server's answer."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from listener.address import parse_address
from listener.config.rules import DEFAULT_NAME as RULE
from listener.config.rules import default_rules
from listener.config.sections import DeliverySettings
from listener.errors import BadData, RuleBroken, StatementTimeout
from listener.mail.composer import Message
from listener.mail.message import Content
from listener.outbox.event import Event, OutgoingMessage, Settlement, StoredMessage
from listener.recipients import RecipientPolicy
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.replies import Phase, Reply, Scope, Verdict
from listener.smtp.verdicts import SERVER
from listener.worker.decision import ToSend
from listener.worker.delivery import Delivery
from listener.worker.lookup_result import LookupResult
from listener.worker.suspensions import RETRY_AFTER_S
from tests.support.clock import jumping
from tests.support.events import CAPTURED_AT, JANE, event

MAX_ATTEMPTS = 5
DAY = 86_400.0
NOW = datetime(2026, 11, 27, tzinfo=UTC)
ROW = {"current": "VE", "email": "jane@example.org", "consent": True, "place": "Caf\u00e9"}


class FakeComposer:
    """Composes one short message for every row, or raises `error`."""

    def __init__(self, *allowed: str, error: Exception | None = None, remarks: tuple[str, ...] = ()) -> None:
        self.recipients = RecipientPolicy(allowed or None)
        self._error = error
        self._remarks = remarks

    def check(self, *_: Any) -> None: ...

    def compose(self, *_: Any) -> Message:
        if self._error is not None:
            raise self._error
        return Message("key", JANE, Content("", "", None), b"composed", self._remarks)


ANYBODY: Any = FakeComposer()


def delivery(composer: Any = ANYBODY) -> Delivery:
    policy = DeliverySettings(max_attempts=MAX_ATTEMPTS).model_copy(update={"max_age": DAY})
    return Delivery(default_rules(), composer, b"secret", {RULE: policy})


class FakeRows:
    """Stands for the rule's query. It fails for a batch with a key of `bad`, and notes the keys of each query."""

    def __init__(self, *bad: str, **more: Any) -> None:
        self.asked: list[list[str]] = []
        self.budgets: list[int] = []
        self._bad = set(bad)
        self._more = more

    async def __call__(self, pool: Any, of: Sequence[str], budget: int, people: Any = None) -> LookupResult:
        self.asked.append(list(of))
        self.budgets.append(budget)
        if self._bad & set(of):
            raise BadData("lookup_error", "DivisionByZero (SQLSTATE 22012)")
        return LookupResult({key: [ROW] for key in of}, dict.fromkeys(of, 1000), **self._more)


async def triage(
    events: list[Event],
    rows: FakeRows,
    monkeypatch: pytest.MonkeyPatch,
    *,
    composer: Any = ANYBODY,
    budget: int = 10_000,
) -> dict[int, tuple[str, str | None]]:
    """Return state and reason by event, where the state of an event that is to be sent is `send`."""
    deciding = delivery(composer)
    monkeypatch.setattr(deciding._lookups[RULE], "rows", rows)
    decided = await deciding.triage(RULE, events, None, budget)  # type: ignore[arg-type]
    return {
        each.event.id: ("send", None) if isinstance(each, ToSend) else (each.state, each.reason) for each in decided
    }


@pytest.mark.parametrize(
    ("changes", "decided"),
    [
        ({}, ("send", None)),
        ({"flaw": ("unreadable", "its key is too long")}, ("failed", "unreadable")),
        ({"age": DAY}, ("send", None)),
        ({"age": DAY + 1}, ("skipped", "expired")),
        ({"superseded_by": "sent"}, ("skipped", "superseded")),
        ({"superseded_by": "transmitting"}, ("available", None)),
        ({"superseded_by": "sent", "age": DAY + 1}, ("skipped", "expired")),
    ],
    ids=["usual", "flaw", "old", "too old", "newer one sent", "newer one under way", "expired and superseded"],
)
async def test_an_event_before_its_lookup(
    changes: dict[str, Any], decided: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = FakeRows()
    assert await triage([event(1, **changes)], rows, monkeypatch) == {1: decided}
    # An event that is decided costs no query.
    assert rows.asked == ([["1"]] if decided[0] == "send" else [])


async def test_one_row_gives_one_email(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three changes of a row show the same state now. A newer event that cannot be read supersedes none."""
    events = [event(3, key="7"), event(1, key="7"), event(2, key="8"), event(4, key="7", flaw=("unreadable", "x"))]
    assert await triage(events, FakeRows(), monkeypatch) == {
        1: ("skipped", "superseded"),
        2: ("send", None),
        3: ("send", None),
        4: ("failed", "unreadable"),
    }


async def test_one_bad_row_fails_its_own_event_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query fails for the batch, as a division by zero does, and the other people get their emails."""
    rows = FakeRows("3")
    decided = await triage([event(number) for number in range(1, 9)], rows, monkeypatch)
    assert decided.pop(3) == ("available", "lookup_error")
    assert set(decided.values()) == {("send", None)}
    # Each half reads no more than the halves before have left.
    assert (rows.asked[-1], rows.budgets[-1]) == (["5", "6", "7", "8"], 10_000 - 3 * 1000)


@pytest.mark.parametrize(
    ("found", "decided"),
    [
        ({"too_large": {"1": 5_000_000}}, ("failed", "too_large")),
        ({"later": {"1"}}, ("available", None)),
    ],
)
async def test_a_row_that_was_not_read(
    found: dict[str, Any], decided: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await triage([event(1)], FakeRows(**found), monkeypatch) == {1: decided}


async def test_without_memory_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = FakeRows()
    assert await triage([event(1)], rows, monkeypatch, budget=0) == {1: ("available", None)}
    assert rows.asked == []


@pytest.mark.parametrize(
    ("allowed", "decided"), [("@example.org", ("send", None)), ("@example.com", ("skipped", "not_allowed"))]
)
async def test_a_staging_system_writes_to_nobody_else(
    allowed: str, decided: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await triage([event(1)], FakeRows(), monkeypatch, composer=FakeComposer(allowed)) == {1: decided}


REPLY = Reply(550, "5.1.1", "no such user jane@example.org")
LATER = Verdict(Scope.recipient, permanent=False, reason="greylisted", uses_attempt=True)
NEVER = Verdict(Scope.recipient, permanent=True, reason="bad_address", uses_attempt=True)


@pytest.mark.parametrize(
    ("outcome", "attempt", "state", "entry", "uses_attempt"),
    [
        (Accepted(Reply(250, None, "ok")), 0, "sent", "sent", True),
        (Refused(Phase.rcpt, REPLY, NEVER), 0, "failed", "failed", True),
        (Refused(Phase.rcpt, REPLY, LATER), 0, "available", "deferred", True),
        (Refused(Phase.rcpt, REPLY, LATER), MAX_ATTEMPTS - 2, "available", "deferred", True),
        (Refused(Phase.rcpt, REPLY, LATER), MAX_ATTEMPTS - 1, "failed", "failed", True),
        (NotSent(Phase.connect, "refused", SERVER), MAX_ATTEMPTS - 1, "available", "not_sent", False),
        (InDoubt("the connection broke"), MAX_ATTEMPTS - 1, "in_doubt", "in_doubt", False),
        (NotPermitted(), MAX_ATTEMPTS - 1, "available", None, False),
    ],
    ids=["accepted", "never", "later", "next to last", "last", "server down", "in doubt", "not permitted"],
)
def test_an_outcome_becomes_a_settlement(
    outcome: SendOutcome, attempt: int, state: str, entry: str | None, uses_attempt: bool
) -> None:
    """A fault of the server must use no attempt: an outage of a day would fail every event."""
    settled = delivery().settlement(OutgoingMessage(event(1, attempt=attempt), JANE, b"", "id"), outcome)
    assert (settled.state, settled.history_entry, settled.uses_attempt) == (state, entry, uses_attempt)
    assert (settled.delay is not None) is (state in ("available", "in_doubt") and entry is not None)
    assert "jane@" not in (settled.detail or "")


@pytest.mark.parametrize(
    ("verdict", "delays"),
    [
        (Verdict(Scope.recipient, False, "greylisted", True), [10, 20, 40]),
        (Verdict(Scope.recipient, False, "mailbox_full", True, delay=3600.0), [5400, 10_800, 21_600]),
        (Verdict(Scope.throttle, False, "throttled", False, delay=5.0), [7.5, 7.5, 7.5]),
    ],
    ids=["none suggested", "an hour suggested", "no attempt used"],
)
def test_the_delay_follows_what_the_server_suggests(
    verdict: Verdict, delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    settled = [
        delivery().settlement(
            OutgoingMessage(event(1, attempt=n), JANE, b"", "id"), Refused(Phase.rcpt, REPLY, verdict)
        )
        for n in range(3)
    ]
    assert [each.delay for each in settled] == delays


class Locked(FakeRows):
    """Its table is locked at the first check, and the second finds a column missing."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = default_rules()[RULE]
        self.errors: list[Exception] = [StatementTimeout("lock timeout"), RuleBroken("no column")]

    async def check(self, _: Any) -> frozenset[str]:
        raise self.errors.pop(0)


async def test_a_rule_whose_table_was_locked_is_checked_before_its_first_lookup() -> None:
    """Otherwise its events would fail one by one, where the rule is to be suspended."""
    checking, locked = delivery(), Locked()
    checking._lookups[RULE] = locked  # type: ignore[assignment]
    pool: Any = None
    with structlog.testing.capture_logs() as logs:
        await checking.check(pool)
    assert [log["event"] for log in logs] == ["rule_unchecked"]
    with pytest.raises(RuleBroken):
        await checking.triage(RULE, [event(1)], pool)
    assert not locked.errors


@jumping
async def test_a_suspended_rule_is_active_again_and_mended_by_its_first_message() -> None:
    suspending = delivery()
    suspending.suspensions.suspend(RULE, RuleBroken("no column"))
    assert suspending.active_shares == {}
    await asyncio.sleep(RETRY_AFTER_S)
    assert suspending.active_shares == {RULE: 1}
    assert [*suspending.suspensions.current] == [RULE]
    assert isinstance(suspending.compose(ToSend(event(1), JANE, ROW, 100), NOW), OutgoingMessage)
    assert not suspending.suspensions.current


@pytest.mark.parametrize(
    ("composer", "stored", "state", "reason"),
    [
        (FakeComposer(error=BadData("bad_header", "a line break")), None, "failed", "bad_header"),
        (FakeComposer(error=ZeroDivisionError()), None, "failed", "internal_error"),
        (FakeComposer("@example.com"), StoredMessage("jane@example.org", b"kept"), "skipped", "not_allowed"),
        (FakeComposer(), StoredMessage("nobody", b"kept"), "failed", "bad_address"),
    ],
    ids=["bad data", "internal error", "restored in staging", "stored without address"],
)
def test_no_message_can_be_composed(composer: Any, stored: StoredMessage | None, state: str, reason: str) -> None:
    settled = delivery(composer).compose(ToSend(event(1), JANE, ROW), NOW, stored)
    assert isinstance(settled, Settlement)
    assert (settled.state, settled.reason) == (state, reason)


def test_a_column_that_is_left_out_is_logged_and_the_message_goes() -> None:
    with structlog.testing.capture_logs() as logs:
        composed = delivery(FakeComposer(remarks=("reply_to is left out: the address has no @",))).compose(
            ToSend(event(1), JANE, ROW), NOW
        )
    assert isinstance(composed, OutgoingMessage)
    [entry] = logs
    assert (entry["event"], entry["log_level"], entry["event_id"]) == ("part_left_out", "warning", 1)
    assert entry["remark"] == "reply_to is left out: the address has no @"


def test_a_broken_template_fails_no_event() -> None:
    with pytest.raises(RuleBroken):
        delivery(FakeComposer(error=RuleBroken("no variable"))).compose(ToSend(event(1), JANE, ROW), NOW)


def test_a_second_sending_repeats_the_first() -> None:
    """The recipient's mail program can drop the copy only if both have the same Message-ID and bytes."""
    composing = delivery()
    first = composing.compose(ToSend(event(1), JANE, ROW), NOW)
    again = composing.compose(ToSend(event(1, claim=41), JANE, {}), NOW, StoredMessage("Jane@example.org", b"kept"))
    other = composing.compose(ToSend(event(2), JANE, ROW), NOW)
    assert isinstance(first, OutgoingMessage)
    assert isinstance(again, OutgoingMessage)
    assert isinstance(other, OutgoingMessage)
    assert (again.recipient, again.raw) == (parse_address("Jane@example.org"), b"kept")
    assert first.message_id == again.message_id != other.message_id


@pytest.mark.parametrize(
    ("first", "now", "redirect_to", "reason"),
    [
        ("jane@example.org", "jane@example.org", None, None),
        ("jane@example.org", " JANE@Example.ORG", None, None),
        ("jane@example.org", "ann@example.org", None, "moved"),
        ("jane@example.org", "jane@example.com", None, "moved"),
        ("jane@example.org", "jane+1@example.org", None, "moved"),
        ("staging@example.org", "jane@example.org", "staging@example.org", None),
        ("staging@example.org", "jane@example.org", None, "moved"),
        ("jane@example.org", "jane@example.org", "staging@example.org", None),
        ("jane@example.org", "ann@example.org", "staging@example.org", "moved"),
    ],
)
def test_a_second_sending_goes_only_where_the_first_went_and_still_belongs(
    first: str, now: str, redirect_to: str | None, reason: str | None
) -> None:
    composer = FakeComposer()
    composer.recipients = RecipientPolicy(None, parse_address(redirect_to) if redirect_to else None)
    composed = delivery(composer).compose(ToSend(event(1), parse_address(now), ROW), NOW, StoredMessage(first, b"kept"))
    if reason is None:
        assert isinstance(composed, OutgoingMessage)
        assert str(composed.recipient) == (redirect_to or first)
    else:
        assert isinstance(composed, Settlement)
        assert (composed.state, composed.reason, composed.delay, composed.uses_attempt) == (
            "in_doubt",
            reason,
            None,
            False,
        )
        assert first not in str(composed.detail)
        assert now not in str(composed.detail)


def test_the_composer_gets_the_time_of_the_change() -> None:
    """The SEQUENCE of a calendar entry is this time."""
    given: list[tuple[Any, ...]] = []

    class Noting(FakeComposer):
        """Notes its arguments."""

        def compose(self, *arguments: Any) -> Message:
            given.append(arguments)
            return super().compose(*arguments)

    delivery(Noting()).compose(ToSend(event(1), JANE, ROW), NOW)
    assert given[0][-3:] == (NOW, CAPTURED_AT, None)
