"""The writes of marks and outcomes. A worker that has lost an event writes nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.claimant import RULE, Claimant
from tests.support.database import Database

Register = Callable[..., Claimant]


@pytest.fixture
def worker(sandbox: Database, claimant: Register) -> Claimant:
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, '1')", (RULE,))
    return claimant("first")


@pytest.fixture
def event(worker: Claimant) -> Any:
    """Claimed by `worker`."""
    [event] = worker.claim()
    return event


def now(database: Database) -> dict[str, Any]:
    [row] = database.events()
    return row


def whats(database: Database) -> list[str]:
    return [entry["what"] for entry in now(database)["history"]]


def test_a_mark_keeps_what_a_second_sending_would_repeat(sandbox: Database, worker: Claimant, event: Any) -> None:
    assert worker.mark(event, "jane@example.org", b"\x00bytes")
    row = now(sandbox)
    assert (row["state"], row["recipient"], row["message"], row["claim"]) == (
        "transmitting", "jane@example.org", b"\x00bytes", event["claim"],
    )  # fmt: skip
    assert whats(sandbox) == ["claimed", "transmitting"]
    assert not worker.mark(event, "other@example.org", b"other")
    assert now(sandbox) == row


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("state", "reason", "counts"),
    [
        ("sent", None, True),
        ("skipped", "no_consent", False),
        ("failed", "bad_address", True),
        ("failed", "rejected", False),
    ],
)
def test_the_end_is_written_once_and_the_message_forgotten(
    sandbox: Database, worker: Claimant, event: Any, marked: bool, state: str, reason: str | None, counts: bool
) -> None:
    if marked:
        worker.mark(event)
    assert worker.settle(event, state, reason=reason, uses_attempt=counts, detail="250 2.0.0 Ok")
    row = now(sandbox)
    assert row["settled_at"] is not None
    assert {name: row[name] for name in ("state", "reason", "attempt", "in_doubt_count", "recipient", "message")} == {
        "state": state, "reason": reason, "attempt": int(counts), "in_doubt_count": 0, "recipient": None, "message": None,
    }  # fmt: skip
    assert row["history"][-1]["detail"] == "250 2.0.0 Ok"
    for again in ("sent", "available", "in_doubt"):
        assert not worker.settle(event, again, reason="x", delay=0)
    assert not worker.mark(event)
    assert now(sandbox) == row


def test_back_at_once_and_without_a_word(sandbox: Database, worker: Claimant, event: Any) -> None:
    """An event whose sending never began uses no attempt and adds no line to the history."""
    before = now(sandbox)
    assert worker.record([(event["id"], event["claim"], "available", None, 0, None, False, None, None)], [])
    row = now(sandbox)
    assert (row["state"], row["claim"], row["claimed_by"]) == ("available", None, None)
    assert (row["scheduled_at"], row["history"], row["attempt"]) == (before["scheduled_at"], before["history"], 0)


def test_back_later(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    assert worker.settle(
        event,
        "available",
        reason="greylisted",
        uses_attempt=True,
        delay=3600,
        history_entry="deferred",
        detail="451 4.7.1 Later",
    )
    row = now(sandbox)
    assert (row["state"], row["reason"], row["attempt"], row["settled_at"]) == ("available", "greylisted", 1, None)
    assert (row["recipient"], row["message"]) == (None, None), "it was not sent: the next attempt composes it again"
    assert sandbox.value(
        "SELECT scheduled_at - now() BETWEEN interval '59 minutes' AND interval '60 minutes' FROM pgherald.outbox"
    )
    assert whats(sandbox) == ["claimed", "transmitting", "deferred"]
    assert worker.claim() == []


def test_in_doubt_once_is_scheduled_twice_is_held(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    assert worker.settle(event, "in_doubt", reason="no_reply", delay=0)
    row = now(sandbox)
    assert (row["state"], row["in_doubt_count"], row["attempt"], row["claim"]) == ("in_doubt", 1, 0, event["claim"])
    assert (row["recipient"], row["message"]) == ("jane@example.org", b"bytes")
    assert worker.resend() == 1
    assert (now(sandbox)["state"], now(sandbox)["claim"], now(sandbox)["message"]) == (
        "available",
        event["claim"],
        b"bytes",
    )
    [again] = worker.claim()
    assert (again["in_doubt_count"], *worker.stored(again)) == (1, "jane@example.org", b"bytes")
    worker.mark(again)
    assert worker.settle(again, "in_doubt", reason="no_reply", delay=0)
    row = now(sandbox)
    assert (row["state"], row["in_doubt_count"], row["scheduled_at"], row["message"]) == ("in_doubt", 2, None, b"bytes")
    assert worker.resend() == 0
    assert worker.claim() == []
    assert whats(sandbox) == ["claimed", "transmitting", "in_doubt", "resend", "claimed", "transmitting", "in_doubt"]


def test_with_hold_the_first_doubt_is_held(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    assert worker.settle(event, "in_doubt", reason="no_reply", delay=0, hold=True)
    assert now(sandbox)["scheduled_at"] is None
    assert worker.resend() == 0
    assert worker.rescue()["due"] == 0
    assert worker.waiting() == (0, 1)


def test_a_mark_under_hold_is_held_whatever_the_policy_is_by_then(
    sandbox: Database, worker: Claimant, event: Any
) -> None:
    worker.hold = True
    worker.mark(event)
    worker.hold = False
    assert worker.settle(event, "in_doubt", reason="no_reply", delay=0)
    assert now(sandbox)["scheduled_at"] is None


def test_a_mark_under_hold_that_was_not_sent_is_available_at_once(
    sandbox: Database, worker: Claimant, event: Any
) -> None:
    worker.hold = True
    worker.mark(event)
    assert worker.settle(event, "available", reason="server", delay=None, history_entry="not_sent")
    assert [each["id"] for each in worker.claim()] == [event["id"]]


def test_a_second_sending_that_moved_is_held_and_adds_no_doubt(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    worker.settle(event, "in_doubt", delay=0)
    worker.resend()
    [again] = worker.claim()
    assert worker.settle(again, "in_doubt", reason="moved")
    row = now(sandbox)
    assert (row["state"], row["reason"], row["in_doubt_count"], row["scheduled_at"], row["message"]) == (
        "in_doubt",
        "moved",
        1,
        None,
        b"bytes",
    )
    assert worker.resend() == 0


def test_a_second_sending_put_off_keeps_its_bytes(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    worker.settle(event, "in_doubt", delay=0)
    worker.resend()
    [again] = worker.claim()
    worker.mark(again, "jane@example.org", b"bytes")
    assert worker.settle(again, "available", reason="server", delay=0, history_entry="not_sent")
    row = now(sandbox)
    assert (row["state"], row["recipient"], row["message"]) == ("available", "jane@example.org", b"bytes")


def test_a_doubt_is_resent_when_its_time_has_come(sandbox: Database, worker: Claimant, event: Any) -> None:
    worker.mark(event)
    worker.settle(event, "in_doubt", delay=3600)
    assert worker.rescue()["due"] == worker.resend() == 0
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now()")
    assert worker.rescue()["due"] == worker.resend() == 1
    assert worker.waiting() == (1, 0)


@pytest.mark.parametrize(
    ("state", "what"), [("sent", "sent_late"), ("failed", "failed_late"), ("available", "deferred_late")]
)
def test_who_learns_the_outcome_late_may_settle_it(
    sandbox: Database, worker: Claimant, event: Any, claimant: Register, state: str, what: str
) -> None:
    """The worker was declared dead while it waited for the reply; nobody has taken the event up again."""
    worker.mark(event)
    worker.unregister()
    assert claimant("other").rescue()["doubted"] == 1
    assert not worker.settle(event, "in_doubt", delay=0), "that is known already"
    assert now(sandbox)["in_doubt_count"] == 1
    assert worker.settle(
        event, state, reason="rejected", uses_attempt=True, delay=0, history_entry=what.removesuffix("_late")
    )
    row = now(sandbox)
    # A message that was not sent after all is not in doubt, and its bytes are not needed again.
    assert (row["state"], row["attempt"], row["in_doubt_count"]) == (state, 1, 0 if state == "available" else 1)
    assert (row["recipient"], row["message"]) == (None, None)
    assert whats(sandbox) == ["claimed", "transmitting", "in_doubt", what]


@pytest.mark.parametrize(("state", "what"), [("sent", "sent_late"), ("failed", "failed_late")])
def test_it_may_still_when_the_event_waits_to_be_sent_once_more(
    sandbox: Database, worker: Claimant, event: Any, claimant: Register, state: str, what: str
) -> None:
    worker.mark(event)
    worker.unregister()
    other = claimant("other")
    other.rescue(lease=0)
    assert other.resend() == 1
    assert not worker.settle(event, "available", delay=0), "it waits already, with the bytes to repeat"
    assert worker.settle(event, state, reason="rejected", uses_attempt=True, history_entry=state)
    row = now(sandbox)
    assert (row["state"], row["recipient"], row["message"]) == (state, None, None)
    assert whats(sandbox) == ["claimed", "transmitting", "in_doubt", "resend", what]
    assert other.claim() == []


def test_too_late_once_it_is_taken_up_again(
    sandbox: Database, worker: Claimant, event: Any, claimant: Register
) -> None:
    worker.mark(event)
    worker.unregister()
    other = claimant("other")
    other.rescue(lease=0)
    assert other.resend() == 1
    [again] = other.claim()
    row = now(sandbox)
    assert not worker.settle(event, "sent", uses_attempt=True)
    assert now(sandbox) == row
    assert other.settle(again, "sent", uses_attempt=True)


@pytest.mark.parametrize("state", ["sent", "skipped", "failed", "available", "in_doubt"])
def test_a_lost_claim_settles_nothing_and_marks_nothing(
    sandbox: Database, worker: Claimant, event: Any, claimant: Register, state: str
) -> None:
    other = claimant("other")
    worker.unregister()
    assert other.rescue()["freed"] == 1
    for stage in ("freed", "claimed", "marked"):
        if stage == "claimed":
            [taken] = other.claim()
        elif stage == "marked":
            assert other.mark(taken, "other@example.org", b"other's")
        row = now(sandbox)
        assert not worker.settle(event, state, reason="x", uses_attempt=True, delay=0)
        assert not worker.mark(event)
        assert now(sandbox) == row
    assert other.settle(taken, "sent")


def test_outcomes_and_marks_of_many_in_one_go(sandbox: Database, claimant: Register) -> None:
    """Those that are lost are left out, the others are written, and the answer says which."""
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, g FROM generate_series(1, 4) AS g", (RULE,))
    worker = claimant()
    events = worker.claim()
    sandbox.execute("UPDATE pgherald.outbox SET claim = claim + 1000 WHERE key IN ('2', '4')")
    settled = [(event["id"], event["claim"], "sent", None, 1, None, False, "sent", None) for event in events[:2]]
    marks = [(event["id"], event["claim"], "jane@example.org", b"bytes") for event in events[2:]]
    assert worker.record(settled, marks) == {events[0]["id"], events[2]["id"]}
    assert [row["state"] for row in sandbox.events()] == ["sent", "claimed", "transmitting", "claimed"]


def test_a_history_keeps_its_beginning_and_its_end(sandbox: Database) -> None:
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) VALUES ('x', '1')")
    for number in range(120):
        sandbox.execute(
            "UPDATE pgherald.outbox SET history = pgherald.append_history(history, 'deferred', %s)", (str(number),)
        )
    history = [int(entry["detail"]) for entry in now(sandbox)["history"]]
    assert history == [*range(50), *range(70, 120)]


def test_what_was_written_although_no_answer_came(
    sandbox: Database, worker: Claimant, event: Any, claimant: Register
) -> None:
    worker.mark(event)
    assert worker.find_settled(event, "transmitting")
    assert not worker.find_settled(event, "sent")
    worker.settle(event, "sent")
    assert not worker.settle(event, "sent")
    assert worker.find_settled(event, "sent")
    assert not worker.find_settled({**event, "claim": event["claim"] + 1}, "sent"), "by another"


def test_claims_whose_answer_was_lost_go_back(sandbox: Database, claimant: Register) -> None:
    """All that this worker has claimed and does not know of; not what it has marked, nor what is another's."""
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, g FROM generate_series(1, 5) AS g", (RULE,))
    worker, other = claimant("worker"), claimant("other")
    # One claim number for all that were claimed together, and the answer came for two of them.
    (marked, known, _), [others] = worker.claim(3), other.claim(1)
    worker.mark(marked)
    assert worker.release_lost_claims(known) == 1
    assert [row["state"] for row in sandbox.events()] == [
        "transmitting",
        "claimed",
        "available",
        "claimed",
        "available",
    ]
    assert sandbox.events()[2]["history"][-1]["what"] == "released"
    assert worker.settle(known, "sent")
    assert other.settle(others, "sent")
    assert worker.release_lost_claims() == 0
    [again] = worker.claim(1)
    assert worker.release_lost_claims({**again, "claim": again["claim"] - 1}) == 1, (
        "known by an earlier claim is not known"
    )
