"""One NOTIFY per transaction, only while the daemon sleeps. A transaction without one keeps the gate from closing."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from listener.outbox.store import QUERIES
from tests.support import PATIENCE
from tests.support.claimant import Claimant
from tests.support.database import Database

Session = psycopg.Connection[Any]
VERIFY = "UPDATE public.dateplan SET status = 'VE' WHERE id = %s"
CLOSE = "SELECT pg_advisory_lock(726354, 1)"
TRY = "SELECT pg_try_advisory_lock(726354, 1)"


WATCH = "SELECT pgherald.watch('dateplan_verified', 'public.dateplan', capture => %s)"


@pytest.fixture(params=["row", "statement"])
def plans(sandbox: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    sandbox.execute(WATCH, (request.param,))
    sandbox.execute("INSERT INTO public.dateplan (plan_id) SELECT generate_series(1, 9)")
    yield sandbox
    sandbox.execute(WATCH, ("row",))


@pytest.fixture
def rings(plans: Database) -> Callable[[], list[str]]:
    """Return the rings so far without waiting: notifications come in commit order, so the marker is the last."""
    ear = plans.connect()
    ear.execute("LISTEN pgherald; LISTEN marker")

    def heard() -> list[str]:
        plans.execute("NOTIFY marker")
        payloads = []
        for notify in ear.notifies(timeout=PATIENCE):
            if notify.channel == "marker":
                return payloads
            payloads.append(notify.payload)
        raise AssertionError("the marker was not heard")

    return heard


@pytest.fixture
def sleeper(plans: Database) -> Session:
    """The daemon's session, asleep."""
    conn = plans.connect()
    conn.execute(CLOSE)
    return conn


def closes(conn: Session) -> bool:
    row = conn.execute(TRY).fetchone()
    assert row is not None
    return bool(row[0])


def test_no_ring_while_the_gate_is_open(plans: Database, rings: Callable[[], list[str]]) -> None:
    plans.verify(1, 2, 3)
    assert rings() == []
    assert len(plans.events()) == 3


def test_one_ring_a_transaction_while_it_is_closed(
    plans: Database, rings: Callable[[], list[str]], sleeper: Session
) -> None:
    """Empty: the channel carries no data."""
    conn = plans.connect()
    with conn.transaction():
        for plan in (1, 2):
            conn.execute(VERIFY, (plan,))
        with conn.transaction():
            conn.execute(VERIFY, (3,))
        conn.execute("INSERT INTO public.dateplan (status) SELECT 'VE' FROM generate_series(1, 100)")
    assert rings() == [""]
    plans.verify(4, 5)
    plans.verify(6)
    assert rings() == ["", ""]


def test_two_rules_ring_once(plans: Database, rings: Callable[[], list[str]], sleeper: Session) -> None:
    plans.execute("SELECT pgherald.watch('another', 'public.dateplan')")
    plans.verify(1)
    assert rings() == [""]
    assert len(plans.events()) == 2


def test_a_takeover_rings_as_a_capture_does(plans: Database, rings: Callable[[], list[str]], sleeper: Session) -> None:
    """The daemon may have skipped the change, because it was locked, before it fell asleep."""
    plans.take_over()
    assert rings() == []
    plans.verify(1, 2)
    assert rings() == [""]
    plans.take_over()
    assert rings() == [""]


def test_a_claim_rings_for_what_it_leaves_to_others(
    plans: Database, rings: Callable[[], list[str]], sleeper: Session
) -> None:
    """The leader may deliver a rule that this worker does not, and have skipped the change, because it was locked."""
    other = Claimant(plans.connect(), "other")
    plans.verify(1)
    assert rings() == [""]
    assert len(other.claim()) == 1
    assert rings() == []
    plans.verify(2)
    assert rings() == [""]
    assert other.claim(rules=["elsewhere"]) == []
    assert rings() == [""]


def test_a_takeover_keeps_the_gate_open_until_it_is_committed(plans: Database) -> None:
    daemon, command = plans.connect(), plans.connect()
    plans.verify(1)
    with command.transaction():
        command.execute(QUERIES["take_over"], {"start": "(0,0)", "batch": 1, "rule": None, "key": None})
        assert not closes(daemon)
    assert closes(daemon)


def test_nobody_is_rung_for_what_is_rolled_back(
    plans: Database, rings: Callable[[], list[str]], sleeper: Session
) -> None:
    conn = plans.connect()
    with conn.transaction(force_rollback=True):
        conn.execute(VERIFY, (1,))
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            conn.execute(VERIFY, (1,))
        conn.execute("UPDATE public.dateplan SET plan_id = 1 WHERE id = 2")
    assert rings() == []
    with conn.transaction():
        conn.execute(VERIFY, (1,))
        with conn.transaction(force_rollback=True):
            conn.execute(VERIFY, (2,))
    assert rings() == [""]


def test_nothing_captured_nobody_rung(plans: Database, rings: Callable[[], list[str]], sleeper: Session) -> None:
    plans.execute("UPDATE public.dateplan SET status = 'XX'")
    assert rings() == []


def test_who_did_not_ring_keeps_the_gate_open_until_the_event_is_seen(plans: Database) -> None:
    daemon, application, other = plans.connect(), plans.connect(), plans.connect()
    with application.transaction():
        application.execute(VERIFY, (1,))
        with other.transaction():
            other.execute(VERIFY, (2,))
            assert not closes(daemon)
        assert not closes(daemon)
    assert closes(daemon)
    assert len(plans.events()) == 2


def test_who_rang_does_not_hold_the_gate(plans: Database, rings: Callable[[], list[str]], sleeper: Session) -> None:
    """The daemon may wake, look, find nothing yet, and sleep again: the ring comes with the commit."""
    application = plans.connect()
    with application.transaction():
        application.execute(VERIFY, (1,))
        sleeper.execute("SELECT pg_advisory_unlock(726354, 1)")
        assert closes(sleeper)
        assert rings() == []
    assert rings() == [""]


def test_a_rollback_frees_the_gate(plans: Database) -> None:
    daemon, application = plans.connect(), plans.connect()
    with application.transaction():
        with application.transaction(force_rollback=True):
            application.execute(VERIFY, (1,))
            assert not closes(daemon)
        assert closes(daemon)


@pytest.mark.parametrize("asleep", [False, True], ids=["gate open", "gate closed"])
def test_with_ring_off_a_transaction_can_be_prepared(
    plans: Database, rings: Callable[[], list[str]], asleep: bool
) -> None:
    """PREPARE TRANSACTION refuses a transaction that has done NOTIFY (manual, PREPARE TRANSACTION)."""
    if int(plans.value("SHOW max_prepared_transactions")) == 0:
        pytest.skip("this server has max_prepared_transactions = 0")
    daemon, application = plans.connect(), plans.connect()
    name = sql.Literal(application.info.dbname)  # the whole cluster's
    prepare, commit = sql.SQL("PREPARE TRANSACTION {}").format(name), sql.SQL("COMMIT PREPARED {}").format(name)
    if asleep:
        daemon.execute(CLOSE)
        application.execute("BEGIN")
        application.execute(VERIFY, (1,))
        with pytest.raises(errors.FeatureNotSupported, match="NOTIFY"):
            application.execute(prepare)
        application.rollback()
    application.execute("SET pgherald.ring = off")
    application.execute("BEGIN")
    application.execute(VERIFY, (1,))
    application.execute(prepare)
    try:
        assert plans.events() == []
        assert closes(daemon) is asleep
    finally:
        application.execute(commit)
    assert closes(daemon)
    assert rings() == []
    assert [event["key"] for event in plans.events()] == ["1"]


def test_ring_on_is_as_not_set(plans: Database, rings: Callable[[], list[str]], sleeper: Session) -> None:
    application = plans.connect()
    application.execute("SET pgherald.ring = on")
    application.execute(VERIFY, (1,))
    application.execute("SET pgherald.ring = off; RESET pgherald.ring")
    application.execute(VERIFY, (2,))
    assert rings() == ["", ""]
