"""A person's actions change the events that they apply to, and are in their history."""

from typing import Any

import psycopg
import pytest

from listener.admin.events import APPLIES, Filter, Remedy, apply, find, pause, resume
from listener.errors import SchemaError
from tests.support.database import Database

RULE = "dateplan_verified"
STATES = ("available", "claimed", "transmitting", "in_doubt", "sent", "skipped", "failed")


@pytest.fixture
def conn(sandbox: Database) -> psycopg.Connection[Any]:
    for number, state in enumerate(STATES):
        settled = "now()" if state in ("sent", "skipped", "failed") else "NULL"
        sandbox.execute(
            f"INSERT INTO pgherald.outbox (rule, key, state, reason, claim, settled_at, captured_at) "  # type: ignore[arg-type]
            f"VALUES (%s, %s, %s, 'x', 1, {settled}, now() - make_interval(days => %s))",
            (RULE, str(number), state, number),
        )
    return sandbox.connect()


def states(conn: psycopg.Connection[Any], ids: list[int]) -> list[str]:
    return [event.state for event in find(conn, Filter(ids=ids))]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), list(STATES)),
        (Filter(states=["sent", "failed"]), ["sent", "failed"]),
        (Filter(key="3"), ["in_doubt"]),
        (Filter(rule="none"), []),
        (Filter(reason="x", limit=2), ["available", "claimed"]),
        (Filter(older=5.5 * 86400), ["failed"]),
    ],
)
def test_conditions(conn: psycopg.Connection[Any], wanted: Filter, expected: list[str]) -> None:
    assert [event.state for event in find(conn, wanted)] == expected
    assert wanted.narrows == (wanted != Filter())


@pytest.mark.parametrize(
    ("remedy", "result"),
    [("retry", "available"), ("discard", "skipped"), ("resolve_as_sent", "sent"), ("resolve_as_resend", "available")],
)
def test_an_action_changes_the_states_that_it_applies_to(
    conn: psycopg.Connection[Any], remedy: Remedy, result: str
) -> None:
    before = {event.id: event.state for event in find(conn, Filter())}
    assert apply(conn, remedy, list(before), by="by me") == len(APPLIES[remedy])
    for event in find(conn, Filter()):
        changed = before[event.id] in APPLIES[remedy]
        assert event.state == (result if changed else before[event.id])
    details = conn.execute("SELECT history -> -1 ->> 'detail' FROM pgherald.outbox WHERE history <> '[]'").fetchall()
    assert len(details) == len(APPLIES[remedy])
    assert all("by me" in detail for (detail,) in details)


def test_a_pause_keeps_its_beginning(database: Database) -> None:
    conn = database.connect()
    since = pause(conn, RULE)
    assert pause(conn, RULE) == since
    resume(conn, RULE)
    assert conn.execute("SELECT paused_at FROM pgherald.rule").fetchone() == (None,)
    for action in (pause, resume):
        with pytest.raises(SchemaError, match="rule none is not watched in this database"):
            action(conn, "none")
