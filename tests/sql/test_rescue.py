"""A dead worker's claimed events are released, and its marked events are in doubt. A live worker keeps its events."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support import wait_until
from tests.support.claimant import QUERIES, RULE, Claimant
from tests.support.database import Database

Register = Callable[..., Claimant]


@pytest.fixture
def events(sandbox: Database) -> None:
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, g FROM generate_series(1, 4) AS g", (RULE,))


def half_done(worker: Claimant, count: int = 2) -> list[Any]:
    """Two claimed, the first of them marked."""
    taken = worker.claim(count)
    assert worker.mark(taken[0])
    return taken


def die(worker: Claimant, by: str) -> None:
    """With the session goes its advisory lock; a cut network leaves both, and only time tells."""
    if by == "session":
        worker.conn.close()
    else:
        worker.conn.execute(
            "UPDATE pgherald.worker SET seen_at = now() - lease - interval '1 ms' WHERE id = %s", (worker.id,)
        )


def state(database: Database) -> list[tuple[str, str]]:
    return [(event["key"], event["state"]) for event in database.events()]


@pytest.mark.parametrize("by", ["session", "lease"])
@pytest.mark.usefixtures("events")
def test_a_dead_workers_events(sandbox: Database, claimant: Register, by: str) -> None:
    dead, alive = claimant("dead", locked=True, lease=8), claimant("alive")
    half_done(dead)
    die(dead, by)
    rescue = wait_until(lambda: (answer := alive.rescue())["names"] and answer)
    assert rescue == {"names": ["dead"], "freed": 1, "doubted": 1, "due": 0}
    assert state(sandbox) == [("1", "in_doubt"), ("2", "available"), ("3", "available"), ("4", "available")]
    doubted, freed, *_ = sandbox.events()
    assert (freed["claim"], freed["claimed_by"], freed["attempt"], freed["reason"]) == (None, None, 0, None)
    assert (doubted["reason"], doubted["in_doubt_count"], doubted["attempt"]) == ("worker_gone", 1, 0)
    assert (doubted["message"], doubted["recipient"]) == (b"bytes", "jane@example.org")
    assert doubted["claim"] is not None, "the fence of who may still settle it"
    for event, what in ((freed, "released"), (doubted, "in_doubt")):
        assert (event["history"][-1]["what"], event["history"][-1]["detail"]) == (what, "the worker is gone: dead")
    assert alive.rescue() == {"names": None, "freed": 0, "doubted": 0, "due": int(by == "lease")}


@pytest.mark.usefixtures("events")
def test_a_doubt_waits_for_the_end_of_the_lease(sandbox: Database, claimant: Register) -> None:
    """A worker that lost only its session may still say how it ended, and must not be overtaken by a second sending."""
    dead, alive = claimant("dead", locked=True, lease=3600), claimant("alive")
    half_done(dead)
    until = sandbox.value("SELECT seen_at + lease FROM pgherald.worker WHERE name = 'dead'")
    die(dead, "session")
    wait_until(lambda: alive.rescue()["names"])
    assert sandbox.events()[0]["scheduled_at"] == until
    assert alive.resend() == 0


@pytest.mark.usefixtures("events")
def test_with_hold_a_doubt_is_held(sandbox: Database, claimant: Register) -> None:
    dead, alive = claimant("dead"), claimant("alive")
    half_done(dead)
    die(dead, "lease")
    assert alive.rescue(hold=True)["doubted"] == 1
    assert state(sandbox)[0] == ("1", "in_doubt")
    assert sandbox.events()[0]["scheduled_at"] is None
    assert alive.rescue()["due"] == alive.resend() == 0


@pytest.mark.parametrize("how", ["as marked", "as it was last seen", "as marked, without its row"])
@pytest.mark.usefixtures("events")
def test_the_policy_of_a_dead_worker_counts_if_it_is_the_stricter(
    sandbox: Database, claimant: Register, how: str
) -> None:
    dead, alive = claimant("dead", hold=how != "as it was last seen"), claimant("alive")
    half_done(dead)
    if how == "as it was last seen":
        dead.hold = True
    elif how == "as marked":
        dead.hold = False
    dead.renew()
    if how == "as marked, without its row":
        dead.unregister()
    else:
        die(dead, "lease")
    assert alive.rescue()["doubted"] == 1
    assert sandbox.events()[0]["scheduled_at"] is None
    assert alive.rescue()["due"] == alive.resend() == 0


@pytest.mark.usefixtures("events")
def test_while_a_worker_holds_doubts_nobody_sends_again(sandbox: Database, claimant: Register) -> None:
    dead, alive, strict = claimant("dead"), claimant("alive"), claimant("strict", hold=True)
    half_done(dead)
    die(dead, "lease")
    assert alive.rescue()["doubted"] == 1
    assert alive.rescue()["due"] == 0
    strict.unregister()
    assert alive.rescue()["due"] == 1


def test_the_policy_of_one_rule_is_not_that_of_another(sandbox: Database, claimant: Register) -> None:
    """The dead worker, the one that rescues and a third hold the doubts of one rule. The other rule's are sent again."""
    sandbox.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, '1'), ('other', '1')", (RULE,))
    for strict in ("dead", "alive", "third"):
        dead, alive, third = (claimant(name, hold=name == strict) for name in ("dead", "alive", "third"))
        dead.hold = False
        for event in dead.claim(rules=[RULE, "other"]):
            assert dead.mark(event)
        dead.hold = strict == "dead"
        dead.renew()
        die(dead, "lease")
        hold = strict == "alive"
        assert alive.rescue(hold=hold)["doubted"] == 2
        held, lax = sandbox.events()
        assert (held["scheduled_at"] is None, lax["scheduled_at"] is None) == (strict != "third", False)
        assert alive.rescue(hold=hold)["due"] == alive.resend(hold=hold) == 1
        assert [event["state"] for event in sandbox.events()] == ["in_doubt", "available"]
        for worker in (alive, third):
            worker.unregister()
        sandbox.execute(
            "UPDATE pgherald.outbox SET state = 'available', in_doubt_count = 0, claim = NULL, claimed_by = NULL,"
            " scheduled_at = now(), reason = NULL"
        )


@pytest.mark.usefixtures("events")
def test_in_doubt_for_the_second_time_it_is_held(sandbox: Database, claimant: Register) -> None:
    first, second, third = claimant("first"), claimant("second"), claimant("third")
    half_done(first)
    die(first, "lease")
    second.rescue()
    assert second.resend() == 1
    [again] = [event for event in second.claim() if event["key"] == "1"]
    assert second.stored(again)[1] == b"bytes"
    second.mark(sandbox.events()[0])
    die(second, "lease")
    assert third.rescue()["doubted"] == 1
    event = sandbox.events()[0]
    assert (event["state"], event["in_doubt_count"], event["scheduled_at"], event["message"]) == (
        "in_doubt",
        2,
        None,
        b"bytes",
    )


@pytest.mark.usefixtures("events")
def test_a_second_sending_that_was_only_claimed_keeps_its_bytes(sandbox: Database, claimant: Register) -> None:
    first, second, third = claimant("first"), claimant("second"), claimant("third")
    half_done(first)
    die(first, "lease")
    second.rescue()
    second.resend()
    second.claim()
    die(second, "lease")
    assert third.rescue()["doubted"] == 0
    event = sandbox.events()[0]
    assert (event["state"], event["in_doubt_count"], event["message"]) == ("available", 1, b"bytes")


@pytest.mark.parametrize("locked", [True, False], ids=["by its lock", "by its lease, through a pooler"])
@pytest.mark.usefixtures("events")
def test_a_live_workers_events_are_its_own(sandbox: Database, claimant: Register, locked: bool) -> None:
    worker, other = claimant("worker", locked=locked), claimant("other")
    taken = half_done(worker)
    before = sandbox.events()
    assert other.rescue() == {"names": None, "freed": 0, "doubted": 0, "due": 0}
    assert sandbox.events() == before
    assert worker.renew(has_presence_lock=locked)
    assert worker.settle(taken[0], "sent")
    assert worker.settle(taken[1], "skipped", reason="no_consent")


@pytest.mark.usefixtures("events")
def test_a_lease_that_ran_out_is_over_even_with_its_lock(sandbox: Database, claimant: Register) -> None:
    """A cut network: the server does not know yet that the session is gone. The rescued worker learns it by `renew`."""
    cut, other = claimant("cut", locked=True), claimant("other")
    half_done(cut)
    die(cut, "lease")
    assert other.rescue()["names"] == ["cut"]
    assert not cut.renew(has_presence_lock=True)
    assert claimant("cut, again").id > other.id


@pytest.mark.usefixtures("events")
def test_nobody_buries_itself(claimant: Register) -> None:
    other, worker = claimant("other"), claimant("late", locked=True)
    other.unregister()
    half_done(worker)
    die(worker, "lease")
    assert worker.rescue() == {"names": None, "freed": 0, "doubted": 0, "due": 0}
    assert worker.rescue_from(other.peers())["names"] is None
    assert worker.renew(has_presence_lock=True)


@pytest.mark.usefixtures("events")
def test_what_a_worker_left_behind_is_taken_over(sandbox: Database, claimant: Register) -> None:
    """It has signed off, or been buried by somebody who could not reach all of its events."""
    gone, alive = claimant("gone"), claimant("alive")
    half_done(gone)
    gone.unregister()
    assert alive.rescue(lease=0) == {"names": None, "freed": 1, "doubted": 1, "due": 0}
    assert sandbox.events()[0]["history"][-1]["detail"] == "the worker is gone:"
    assert alive.rescue()["due"] == alive.resend() == 1


@pytest.mark.usefixtures("events")
def test_two_who_bury_at_once_do_not_wait_for_the_events(sandbox: Database, claimant: Register) -> None:
    gone, one, other = claimant("gone"), claimant("one"), claimant("other")
    half_done(gone, 4)
    gone.unregister()
    other.conn.execute("SET lock_timeout = '1s'")
    with one.conn.transaction():
        assert one.rescue()["freed"] == 3
        assert other.rescue()["freed"] == 0
    assert [what for _, what in state(sandbox)] == ["in_doubt", "available", "available", "available"]
    assert sandbox.events()[0]["in_doubt_count"] == 1


def test_the_lock_that_tells_is_let_go_at_once(claimant: Register) -> None:
    """A worker that lost its session, and seems gone for a moment, must get its lock back."""
    worker, other = claimant("worker", locked=True), claimant("other")
    worker.conn.execute("SELECT pg_advisory_unlock(726355, %s)", (worker.lock,))
    assert other.peers()[0]["gone"]
    assert worker.conn.execute("SELECT pg_try_advisory_lock(726355, %s)", (worker.lock,)).fetchone() == (True,)


@pytest.mark.usefixtures("events")
def test_who_has_renewed_since_it_was_looked_at_is_not_buried(sandbox: Database, claimant: Register) -> None:
    worker, other = claimant("worker"), claimant("other")
    half_done(worker)
    seen = other.peers()
    assert worker.renew()
    before = sandbox.events()
    assert other.rescue_from(seen)["names"] is None
    assert sandbox.events() == before
    assert worker.renew()


def test_gone_is_who_had_its_lock_and_has_it_no_more(claimant: Register) -> None:
    locked, pooled, other = claimant("locked", locked=True), claimant("pooled"), claimant("other")
    assert {peer["id"]: peer["gone"] for peer in other.peers()} == {locked.id: False, pooled.id: False}
    locked.conn.close()
    pooled.conn.close()
    wait_until(lambda: {peer["id"]: peer["gone"] for peer in other.peers()} == {locked.id: True, pooled.id: False})


def test_before_the_servers_start_nobody_has_gone(sandbox: Database, claimant: Register) -> None:
    """Locks do not outlive a restart: who has not been seen since may be alive, and on its way back."""
    worker, other = claimant("worker", locked=True), claimant("other")
    worker.conn.close()
    wait_until(lambda: other.peers()[0]["gone"])
    sandbox.execute("UPDATE pgherald.worker SET seen_at = pg_postmaster_start_time() WHERE id = %s", (worker.id,))
    assert not other.peers()[0]["gone"]


def test_the_sessions_of_the_buried_are_ended_and_no_others(sandbox: Database, claimant: Register) -> None:
    buried, alive, other = claimant("buried", locked=True), claimant("alive", locked=True), claimant("other")
    values = {"pids": [buried.conn.info.backend_pid, alive.conn.info.backend_pid], "locks": [buried.lock, buried.lock]}
    assert other.conn.execute(QUERIES["end_sessions"], values).fetchall() == [(True,)]
    with pytest.raises(psycopg.OperationalError):
        wait_until(lambda: buried.conn.execute("SELECT false").fetchone() == (True,))
    assert alive.renew(has_presence_lock=True)
