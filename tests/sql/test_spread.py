"""Spreading an event to the people of its row: once, whole or not at all, and only by the worker that has it."""

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from listener.db.pools import PINNED_PLANS
from tests.support.claimant import QUERIES, RULE, Claimant
from tests.support.database import Database

Register = Callable[..., Claimant]


@pytest.fixture
def plan(sandbox: Database) -> int:
    """A plan with one event."""
    made = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(made)
    return made


def change(database: Database) -> None:
    database.execute("UPDATE public.dateplan SET status = 'PE'")
    database.execute("UPDATE public.dateplan SET status = 'VE'")


def people(database: Database) -> list[tuple[str | None, str]]:
    return [(event["person"], event["state"]) for event in database.events()]


def test_it_becomes_that_of_the_first_and_the_others_are_inserted(
    sandbox: Database, claimant: Register, plan: int
) -> None:
    sandbox.execute("UPDATE pgherald.outbox SET traceparent = %s", (f"00-{'1' * 32}-{'2' * 16}-01",))
    worker = claimant()
    [event] = worker.claim()
    assert event["person"] is None
    assert [row["superseded_by"] for row in worker.spread(event, "a", "b", "c")] == [None]
    assert people(sandbox) == [("a", "claimed"), ("b", "available"), ("c", "available")]
    first, *others = sandbox.events()
    for other in others:
        for column in ("rule", "key", "captured_at", "captured_xid", "traceparent"):
            assert other[column] == first[column]
        assert (other["attempt"], other["claim"], other["claimed_by"]) == (0, None, None)
        # A claim may look at recent events alone.
        assert other["scheduled_at"] >= first["claimed_at"]
        assert [(entry["what"], entry["detail"]) for entry in other["history"]] == [
            ("spread", f"from event {first['id']}")
        ]
    assert [(entry["what"], entry["detail"]) for entry in first["history"]][1:] == [("spread", "to 3 people")]
    assert [row["person"] for row in worker.claim()] == ["b", "c"]


def test_a_worker_that_lost_the_event_spreads_nothing(sandbox: Database, claimant: Register, plan: int) -> None:
    """Its people are those of an older lookup."""
    one, other = claimant(), claimant()
    [lost] = one.claim()
    one.settle(lost, "available")
    [event] = other.claim()
    assert one.spread(lost, "x", "y", "z") == []
    assert people(sandbox) == [(None, "claimed")]
    assert len(other.spread(event, "a", "b")) == 1
    assert people(sandbox) == [("a", "claimed"), ("b", "available")]


@pytest.mark.parametrize("state", ["claimed", "transmitting", "available", "sent"])
def test_it_is_spread_once(sandbox: Database, claimant: Register, plan: int, state: str) -> None:
    """Also if the answer was lost, and whatever became of the event since."""
    worker = claimant()
    [event] = worker.claim()
    worker.spread(event, "a", "b")
    if state == "transmitting":
        worker.mark(event)
    elif state != "claimed":
        worker.settle(event, state)
    assert worker.spread(event, "a", "b") == []
    assert people(sandbox) == [("a", state), ("b", "available")]


def test_it_is_not_spread_when_it_is_already_on_its_way(sandbox: Database, claimant: Register, plan: int) -> None:
    worker = claimant()
    [event] = worker.claim()
    worker.mark(event)
    assert worker.spread(event, "a", "b") == []
    assert people(sandbox) == [(None, "transmitting")]


def test_a_dead_worker_leaves_it_unspread_or_all_of_them(sandbox: Database, claimant: Register, plan: int) -> None:
    dying, other = claimant(), claimant()
    with dying.conn.transaction(force_rollback=True):
        [event] = dying.claim()
        dying.spread(event, "a", "b")
    assert people(sandbox) == [(None, "available")]
    [event] = dying.claim()
    dying.spread(event, "a", "b")
    sandbox.execute("UPDATE pgherald.worker SET seen_at = now() - interval '1 hour' WHERE id = %s", (dying.id,))
    other.rescue()
    assert people(sandbox) == [("a", "available"), ("b", "available")]
    assert sorted(row["person"] for row in other.claim()) == ["a", "b"]


@pytest.mark.parametrize("state", ["claimed", "transmitting", "sent"])
def test_superseded_by_an_event_of_the_same_person_alone(
    sandbox: Database, claimant: Register, plan: int, state: str
) -> None:
    """The email of one person says nothing to another."""
    change(sandbox)
    one, other = claimant(), claimant()
    [first] = one.claim(1)
    one.spread(first, "a", "b")
    if state == "transmitting":
        one.mark(first)
    elif state == "sent":
        one.settle(first, "sent")
    b, second = other.claim()
    assert (second["person"], second["superseded_by"]) == (None, None)
    assert (b["person"], b["superseded_by"]) == ("b", None)
    [spread] = other.spread(second, "a", "b", "c")
    assert spread["superseded_by"] == state
    assert {row["person"]: row["superseded_by"] for row in other.claim()} == {"b": "claimed", "c": None}


def test_of_two_that_are_not_spread_the_later_waits_for_the_earlier(
    sandbox: Database, claimant: Register, plan: int
) -> None:
    change(sandbox)
    one, other = claimant(), claimant()
    one.claim(1)
    [second] = other.claim()
    assert second["superseded_by"] == "claimed"


def test_the_daemons_are_told_if_the_gate_is_closed(sandbox: Database, claimant: Register, plan: int) -> None:
    """The worker may die before it claims the new events."""
    worker, leader = claimant(), sandbox.connect()
    leader.execute("LISTEN pgherald")
    [event] = worker.claim()
    leader.execute("SELECT pg_advisory_lock(726354, 1)")
    worker.spread(event, "a", "b")
    assert [note.channel for note in leader.notifies(timeout=30, stop_after=1)] == ["pgherald"]
    leader.execute("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize("events", [0, 1, 20_000])
def test_its_plan_reads_no_event_but_those_asked_for(database: Database, events: int) -> None:
    conn: psycopg.Connection[Any] = database.connect()
    conn.execute(PINNED_PLANS)
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, generate_series(1, %s)::text", (RULE, events))
    database.execute("VACUUM ANALYZE pgherald.outbox")
    conn.execute(f"PREPARE query AS {re.sub(r'%[(]spread[)]s', '$1', QUERIES['spread'])}")
    plan = "\n".join(line for (line,) in conn.execute("EXPLAIN EXECUTE query (NULL)"))
    assert re.search(r"using outbox_pkey .*\n +Index Cond: \(id = ANY", plan), plan
    assert re.search(r"using outbox_key_idx .*\n +Index Cond: \(key = first.key\)", plan), plan
    assert not re.search("Seq Scan|Sort|Bitmap|Hash|Merge", plan), plan
