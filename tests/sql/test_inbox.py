"""A change in the inbox becomes one event, whoever takes it over, and becomes claimed if its turn has come."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.claimant import QUERIES, RULE, Claimant
from tests.support.database import Database
from tests.support.inbox import add_changes, changes, events_of

Register = Callable[..., Claimant]


def keys(events: list[dict[str, Any]]) -> list[str]:
    return sorted((event["key"] for event in events), key=int)


def test_a_claim_rolled_back_leaves_the_changes_in_the_inbox(sandbox: Database, claimant: Register) -> None:
    add_changes(sandbox, 3)
    one, other = claimant(), claimant()
    with one.conn.transaction(force_rollback=True):
        assert keys(one.claim()) == ["1", "2", "3"]
        assert (changes(sandbox), events_of(other.conn)) == (3, [])
    assert keys(other.claim()) == ["1", "2", "3"]
    assert changes(sandbox) == 0


def test_a_locked_change_is_left_and_found_later(sandbox: Database, claimant: Register) -> None:
    add_changes(sandbox, 3)
    worker, holder = claimant(), sandbox.connect()
    worker.conn.execute("SET lock_timeout = '1s'")
    with holder.transaction():
        holder.execute("SELECT FROM pgherald.inbox WHERE key = '2' FOR UPDATE")
        assert keys(worker.claim()) == ["1", "3"]
        assert worker.claim() == []
        assert changes(sandbox) == 1
    assert keys(worker.claim()) == ["2"]


def test_sessions_that_race_take_each_change_over_once(sandbox: Database, claimant: Register) -> None:
    """Some claim, some only take over, as commands and daemons do beside each other."""
    number = 2000
    taken: list[str] = []
    start = threading.Barrier(4)

    def claim(worker: Claimant) -> None:
        start.wait()
        while events := worker.claim(37, batch=50):
            taken.extend(event["key"] for event in events)

    def take_over() -> None:
        conn = sandbox.connect()
        start.wait()
        while conn.execute(QUERIES["take_over"], {"start": "(0,0)", "batch": 41, "rule": None, "key": None}).fetchone()[
            0
        ]:  # type: ignore[index]
            pass

    add_changes(sandbox, number)
    workers = [claimant(), claimant()]
    threads = [threading.Thread(target=claim, args=[worker]) for worker in workers]
    threads += [threading.Thread(target=take_over) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while events := workers[0].claim(500):
        taken.extend(event["key"] for event in events)
    assert changes(sandbox) == 0
    assert Counter(taken) == {str(key): 1 for key in range(1, number + 1)}
    assert Counter(key for key, _ in events_of(workers[0].conn)) == Counter(taken)


def test_each_becomes_the_event_that_was_captured(sandbox: Database, claimant: Register) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sandbox.execute(
        "INSERT INTO pgherald.inbox VALUES (%s, '7', '2026-01-01 12:00Z', '77', %s), (%s, '8', now(), '78', NULL)",
        (RULE, trace, RULE),
    )
    worker = claimant("host:1")
    [claimed] = worker.claim(1, batch=2)
    assert (claimed["key"], claimed["traceparent"], claimed["attempt"]) == ("7", trace, 0)
    first, second = sandbox.events()
    assert first["captured_at"] == first["scheduled_at"] == claimed["captured_at"]
    assert (first["state"], first["claimed_by"], first["claim"]) == ("claimed", worker.id, claimed["claim"])
    assert (first["captured_xid"], first["traceparent"]) == ("77", trace)
    [entry] = first["history"]
    assert (entry["what"], entry["detail"]) == ("claimed", "host:1")
    assert (second["key"], second["state"], second["history"]) == ("8", "available", [])
    columns = ("claimed_by", "claim", "claimed_at", "snapshot", "traceparent")
    assert [second[column] for column in columns] == [None] * 5
    assert second["captured_at"] == second["scheduled_at"]


def test_what_the_outbox_has_is_claimed_before_what_the_inbox_has(sandbox: Database, claimant: Register) -> None:
    """The oldest first: changes become events in the order of their capture."""
    add_changes(sandbox, 4)
    worker = claimant()
    assert keys(worker.claim(1, batch=2)) == ["1"]
    add_changes(sandbox, 2, first=5)
    assert [keys(worker.claim(2)) for _ in range(3)] == [["2", "3"], ["4", "5"], ["6"]]
    assert worker.claim(2) == []


@pytest.mark.parametrize("kind", ["paused", "suspended or unknown"])
def test_changes_that_may_not_be_sent_become_available(sandbox: Database, claimant: Register, kind: str) -> None:
    add_changes(sandbox, 3, rule="held")
    add_changes(sandbox, 1)
    rules: tuple[str, ...] = (RULE,)
    if kind == "paused":
        sandbox.execute("INSERT INTO pgherald.rule (rule, \"table\", table_name, key, paused_at) VALUES ('held', 'public.plan', 'public.plan', '{id}', now())")  # fmt: skip
        rules = (RULE, "held")
    worker = claimant()
    assert keys(worker.claim(10, rules, batch=10)) == ["1"]
    assert [state for _, state in events_of(worker.conn)] == ["available", "available", "available", "claimed"]
    assert worker.claim(10, rules) == []
    sandbox.execute("DELETE FROM pgherald.rule WHERE rule = 'held'")
    assert len(worker.claim(10, ["held"])) == 3


def test_superseded_by_an_earlier_claim_that_could_see_the_change(sandbox: Database, claimant: Register) -> None:
    plan = sandbox.add_plan("Café", "jane@example.org")
    for _ in range(2):
        sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
        sandbox.verify(plan)
    worker = claimant()
    [first] = worker.claim(1)
    assert changes(sandbox) == 1
    [second] = worker.claim(1)
    assert (first["superseded_by"], second["superseded_by"]) == (None, "claimed")


def test_not_superseded_by_a_claim_before_the_change(sandbox: Database, claimant: Register) -> None:
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker = claimant()
    [first] = worker.claim()
    sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
    sandbox.verify(plan)
    # Taken over late, by another than the one who claims it.
    sandbox.take_over()
    [second] = worker.claim()
    assert (first["superseded_by"], second["superseded_by"]) == (None, None)


def test_not_superseded_by_a_claim_that_could_not_see_it(sandbox: Database, claimant: Register) -> None:
    """Captured before that claim by the clock, and committed after it: its own lookup must show it."""
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker, application = claimant(), sandbox.connect()
    with application.transaction():
        application.execute("UPDATE public.dateplan SET status = 'PE'")
        application.execute("UPDATE public.dateplan SET status = 'VE'")
        # A later transaction that is over.
        sandbox.execute("SELECT pg_current_xact_id()")
        [first] = worker.claim()
    [second] = worker.claim()
    assert (first["superseded_by"], second["superseded_by"]) == (None, None)


def test_two_changes_of_a_row_in_one_claim_are_both_claimed(sandbox: Database, claimant: Register) -> None:
    """The worker sends one of the two. The statement cannot say so, since neither was claimed before it."""
    plan = sandbox.add_plan("Café", "jane@example.org")
    for _ in range(2):
        sandbox.execute("UPDATE public.dateplan SET status = 'PE'")
        sandbox.verify(plan)
    events = claimant().claim()
    assert [event["superseded_by"] for event in events] == [None, None]
    assert [event["key"] for event in events] == [str(plan)] * 2
    assert events[0]["captured_at"] < events[1]["captured_at"]


@pytest.mark.parametrize("xid", ["3", "9999999999"], ids=["of a younger server", "of an older server"])
def test_a_change_restored_from_another_server_is_not_superseded(
    sandbox: Database, claimant: Register, xid: str
) -> None:
    """The numbers of its transactions mean nothing here. The times say that the row was sent before the change."""
    plan = sandbox.add_plan("Café", "jane@example.org")
    sandbox.verify(plan)
    worker = claimant()
    worker.settle(worker.claim()[0], "sent")
    add_changes(sandbox, 1, first=plan)
    sandbox.execute("UPDATE pgherald.inbox SET captured_xid = %s", (xid,))
    [second] = worker.claim()
    assert second["superseded_by"] is None


def test_a_claim_waits_for_no_application(sandbox: Database, claimant: Register) -> None:
    """A transaction that has captured and stays open holds its own changes back, and no other."""
    open_plan, plan = sandbox.add_plan("Café", "a@example.org"), sandbox.add_plan("Café", "b@example.org")
    application = sandbox.connect()
    worker = claimant()
    worker.conn.execute("SET lock_timeout = '1s'")
    with application.transaction():
        application.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (open_plan,))
        sandbox.verify(plan)
        assert keys(worker.claim()) == [str(plan)]
    assert keys(worker.claim()) == [str(open_plan)]
