"""The judge finds each thing that must not be, and nothing where all is well."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from listener.message_id import make_message_id
from tests.chaos.catcher import Copy
from tests.chaos.judge import Event, Findings, judge
from tests.chaos.plan import KINDS, plan
from tests.chaos.writers import Ledger

_SECRET = b"secret"
_NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return _NOON + timedelta(seconds=seconds)


def noted(*entries: tuple[float, str]) -> list[dict[str, str]]:
    return [{"at": at(seconds).isoformat(), "what": what, "detail": ""} for seconds, what in entries]


SENT = Event(
    1, "dateplan_verified", "7", "sent", None, 0, at(0), at(1), None,
    noted((1, "claimed"), (2, "transmitting"), (4, "sent")),
)  # fmt: skip
TWICE = noted((1, "claimed"), (2, "transmitting"), (4, "in_doubt"), (5, "resend"), (6, "transmitting"), (8, "sent"))
HELD = replace(SENT, state="in_doubt", reason="no_reply", in_doubt_count=1, history=TWICE[:3])
FIRST = Copy("u7@example.org", b"x", at(3).timestamp())
SECOND = replace(FIRST, at=at(7).timestamp())


def judged(
    *events: Event,
    copies: tuple[Copy, ...] = (FIRST,),
    became: int = 1,
    email: str = "u7@example.org",
    left: bool = False,
    status: str = "VE",
    hold: bool = False,
    missed: int = 0,
    gone: bool = False,
) -> Findings:
    ledger = Ledger(emails={7: email}, left={7} if left else set(), gone={7} if gone else set())
    ledger.became[7] = became
    ledger.missed[7] = missed
    ledger.undone.add(7)
    of_event = {make_message_id(_SECRET, SENT.rule, 1, SENT.captured_at): list(copies)} if copies else {}
    return judge(ledger, events, of_event, {7: status}, _SECRET, hold=hold)


def words(found: Findings) -> set[str]:
    return {word for word, _ in found.wrong}


REVERTED = replace(SENT, state="skipped", reason="reverted")
LATER = replace(SENT, id=2, captured_at=at(10), claimed_at=at(11), history=noted((11, "claimed")))


@pytest.mark.parametrize(
    "found",
    [
        judged(SENT),
        judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(FIRST, SECOND)),
        judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(SECOND,)),
        judged(HELD, hold=True),
        judged(HELD, copies=(), hold=True),
        judged(replace(HELD, in_doubt_count=2)),
        judged(replace(SENT, state="failed", reason="bad_address"), copies=(), email="x7@example.org"),
        judged(replace(SENT, state="skipped", reason="no_consent"), copies=(), email="n7@example.org"),
        judged(REVERTED, copies=(), left=True, status="PE"),
        judged(
            replace(SENT, claimed_at=at(12)), replace(LATER, state="skipped", reason="superseded"), became=2, left=True
        ),
        judged(copies=(), became=0),
    ],
)
def test_what_is_well(found: Findings) -> None:
    assert found.wrong == []


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("lost", judged(copies=())),
        ("lost", judged(SENT, became=2)),
        ("lost", judged(SENT, copies=())),
        ("lost", judged(replace(SENT, state="transmitting"))),
        ("lost", judged(replace(SENT, state="available"), copies=())),
        ("lost", judged(HELD)),
        ("lost", judged(replace(HELD, scheduled_at=at(9)), hold=True)),
        ("lost", judged(replace(SENT, state="failed", reason="bad_address"), copies=())),
        ("lost", judged(replace(SENT, state="skipped", reason="no_consent"), copies=())),
        ("lost", judged(REVERTED, copies=())),
        ("lost", judged(REVERTED, copies=(), left=True)),
        ("lost", judged(SENT, replace(LATER, state="skipped", reason="superseded"), became=2, left=True)),
        ("doubled", judged(SENT, copies=(FIRST, SECOND))),
        ("doubled", judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(FIRST, SECOND, SECOND))),
        ("doubled", judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(FIRST, SECOND), hold=True)),
        ("different", judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(FIRST, replace(SECOND, digest=b"y")))),
        ("invented", judged(SENT, became=0)),
        ("invented", judged(copies=(FIRST,), became=0)),
        ("contradicted", judged(REVERTED, left=True, status="PE")),
        ("misdirected", judged(SENT, copies=(replace(FIRST, recipient="u8@example.org"),))),
        ("unwanted", judged(SENT, email="n7@example.org", copies=(replace(FIRST, recipient="n7@example.org"),))),
        ("unmarked", judged(SENT, copies=(replace(FIRST, at=at(1.5).timestamp()),))),
        ("unmarked", judged(replace(SENT, in_doubt_count=1, history=TWICE), copies=(FIRST, replace(SECOND, at=at(5).timestamp())))),
    ],
)  # fmt: skip
def test_what_is_wrong(word: str, found: Findings) -> None:
    assert word in words(found)


def test_rows_that_were_only_rolled_back_are_silent() -> None:
    ledger = Ledger(undone={1, 2})
    ledger.became[2] = 1
    assert ledger.silent == {1}


def test_a_seed_gives_the_same_schedule_with_every_kind() -> None:
    schedule = plan(7, 60, 3, 3.0)
    assert schedule == plan(7, 60, 3, 3.0)
    assert schedule != plan(8, 60, 3, 3.0)
    assert {fault.kind for fault in schedule} == set(KINDS)
    assert [fault.at for fault in schedule] == sorted(fault.at for fault in schedule)


def test_changes_while_capture_was_stopped_may_share_an_event() -> None:
    assert words(judged(SENT, became=2)) == {"lost"}
    assert words(judged(SENT, became=2, missed=1)) == set()


def test_a_row_in_the_value_needs_an_event_even_if_its_change_was_missed() -> None:
    assert words(judged(copies=(), missed=1)) == {"lost"}
    assert words(judged(copies=(), missed=1, status="PE")) == set()


def test_only_a_removed_row_may_be_gone() -> None:
    skipped = replace(SENT, state="skipped", reason="row_gone")
    assert words(judged(skipped, copies=())) == {"lost"}
    assert words(judged(skipped, copies=(), gone=True)) == set()
    for email in ("x7@example.org", "n7@example.org"):
        assert words(judged(skipped, copies=(), email=email)) == {"lost"}
        assert words(judged(skipped, copies=(), email=email, gone=True)) == set()
