"""What `again_after` asks about claimed events: was the row mailed, and may it be mailed any moment?"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from listener.outbox.repeats import QUERIES
from tests.support.claimant import RULE, Claimant
from tests.support.database import Database

Register = Callable[..., Claimant]
WEEK_S = 7 * 86_400


def capture(database: Database, *keys: str, rule: str = RULE) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, unnest(%s::text[])", (rule, list(keys)))


def ask(worker: Claimant, *events: Any, again_after: float = WEEK_S) -> dict[int, tuple[Any, ...]]:
    rows = worker.conn.execute(
        QUERIES["repeats"], {"ids": [event["id"] for event in events], "again_after": again_after}
    ).fetchall()
    return {number: rest for number, *rest in rows}


def test_only_a_sent_event_of_the_same_rule_and_row_counts(sandbox: Database, claimant: Register) -> None:
    worker = claimant()
    capture(sandbox, "1", "2", "3")
    for event, state in zip(worker.claim(), ("sent", "skipped", "failed"), strict=True):
        worker.settle(event, state, reason="x" if state != "sent" else None)
    capture(sandbox, "1", rule="other")
    capture(sandbox, "1", "2", "3", "4")
    asked = worker.claim(rules=[RULE, "other"])
    [answer] = ask(worker, *asked).items()
    assert answer[0] == next(event["id"] for event in asked if (event["rule"], event["key"]) == (RULE, "1"))
    assert answer[1][0] == sandbox.events()[0]["settled_at"]
    assert answer[1][1] is False


@pytest.mark.parametrize(("age", "counts"), [(timedelta(days=6, hours=23), True), (timedelta(days=7), False)])
def test_the_time_ends(sandbox: Database, claimant: Register, age: timedelta, counts: bool) -> None:
    worker = claimant()
    capture(sandbox, "1")
    worker.settle(worker.claim()[0], "sent")
    sandbox.execute("UPDATE pgherald.outbox SET settled_at = settled_at - %s", (age,))
    capture(sandbox, "1")
    [event] = worker.claim()
    assert bool(ask(worker, event)) == counts
    assert bool(ask(worker, event, again_after=1e15)) is True


def test_of_two_workers_at_one_moment_at_least_one_waits(sandbox: Database, claimant: Register) -> None:
    """Both have claimed, and none has sent. Each asks after its own claim, so it sees the one before."""
    one, other = claimant("one"), claimant("other")
    capture(sandbox, "1")
    [first] = one.claim()
    capture(sandbox, "1")
    [second] = other.claim()
    assert second["superseded_by"] is None
    assert [row[1] for row in ask(other, second).values()] == [True]
    one.mark(first)
    assert [row[1] for row in ask(other, second).values()] == [True]
    one.settle(first, "sent")
    assert [row[0] is not None for row in ask(other, second).values()] == [True]


def test_events_of_one_batch_do_not_wait_for_each_other(sandbox: Database, claimant: Register) -> None:
    """The newest supersedes the others, and would wait for nothing."""
    worker = claimant()
    capture(sandbox, "1", "1")
    assert ask(worker, *worker.claim()) == {}


def test_a_doubt_is_waited_for_until_it_is_settled(sandbox: Database, claimant: Register) -> None:
    """Also in the moment between the doubt and the second sending, when its state is available."""
    one, other = claimant("one"), claimant("other")
    capture(sandbox, "1")
    [first] = one.claim()
    one.mark(first)
    one.settle(first, "in_doubt", reason="no_reply", delay=30)
    capture(sandbox, "1")
    [second] = other.claim()
    [(sent_at, in_flight, wait, held)] = ask(other, second).values()
    assert (sent_at, in_flight, held) == (None, True, False)
    assert 20 < wait <= 30
    sandbox.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'in_doubt'")
    assert other.resend() == 1
    assert [row[1] for row in ask(other, second).values()] == [True]
    # The doubtful one goes first.
    other.settle(second, "available", delay=60)
    [again] = one.claim()
    assert (again["id"], ask(one, again)) == (first["id"], {})
    one.mark(again)
    one.settle(again, "in_doubt", reason="no_reply", delay=30)
    assert [row[3] for row in ask(other, second).values()] == [True], "a second doubt waits for a person"


def test_of_two_in_doubt_the_first_is_sent_again_first(sandbox: Database, claimant: Register) -> None:
    """Each would wait for the other, forever."""
    worker = claimant()
    capture(sandbox, "1", "1")
    for event in worker.claim():
        worker.mark(event)
        worker.settle(event, "in_doubt", reason="no_reply", delay=0)
    assert worker.resend() == 2
    [first] = worker.claim(1)
    assert ask(worker, first) == {}
    worker.settle(first, "available", delay=0)
    second = next(event for event in worker.claim() if event["id"] != first["id"])
    assert [row[1] for row in ask(worker, second).values()] == [True]


def test_an_email_to_one_person_counts_for_this_person_alone(sandbox: Database, claimant: Register) -> None:
    """An event asks once it is spread. Until then it is for nobody in particular."""
    one, other = claimant("one"), claimant("other")
    capture(sandbox, "1")
    [first] = one.claim()
    one.spread(first, "a", "b")
    capture(sandbox, "1")
    b, second = other.claim()
    assert ask(other, b, second) == {}
    other.spread(second, "b", "a")
    assert {number: row[1] for number, row in ask(other, second).items()} == {second["id"]: True}
    other.settle(b, "sent")
    assert [row[0] is not None for row in ask(other, second).values()] == [True]
    assert ask(one, first) == {}, "the further event of this person waits, and waits for nobody"


def test_of_two_spread_at_one_moment_at_least_one_waits(sandbox: Database, claimant: Register) -> None:
    one, other = claimant("one"), claimant("other")
    capture(sandbox, "1")
    [first] = one.claim()
    capture(sandbox, "1")
    [second] = other.claim()
    one.spread(first, "a")
    other.spread(second, "a")
    assert [row[1] for row in ask(one, first).values()] == [True]
    assert [row[1] for row in ask(other, second).values()] == [True]
