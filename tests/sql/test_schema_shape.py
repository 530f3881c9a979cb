"""The schema as a dump shows it, and the values that its constraints refuse."""

import os
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors

from tests.fixtures.programs import Programs
from tests.support.database import Database

GOLDEN = Path(__file__).with_name("schema.golden")


def test_golden(database: Database, programs: Programs) -> None:
    """A change of the schema appears as a whole in the diff of this file."""
    dump = programs.dump(database, "-n", "pgherald")
    if os.environ.get("PGHERALD_UPDATE_GOLDEN"):
        GOLDEN.write_text(dump, encoding="utf-8")
    assert dump == GOLDEN.read_text(encoding="utf-8"), "as intended? Then run this test with PGHERALD_UPDATE_GOLDEN=1"


ROWS: dict[str, dict[str, Any]] = {
    "available": {},
    "retry": {"attempt": 3, "reason": "greylisted"},
    "claimed": {"claim": 1, "claimed_by": 1},
    "transmitting": {"claim": 1, "claimed_by": 1, "recipient": "jane@example.org", "message": b"x"},
    "in_doubt": {"claim": 1, "reason": "no_reply", "message": b"x", "scheduled_at": None},
    "sent": {"settled_at": "now"},
    "skipped": {"settled_at": "now", "reason": "no_consent"},
    "failed": {"settled_at": "now", "reason": "bad_address"},
}


def insert(database: Database, like: str, **changes: Any) -> None:
    values = {"rule": "x", "key": "1", "state": "available" if like == "retry" else like, **ROWS[like], **changes}
    names, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    database.execute(f"INSERT INTO pgherald.outbox ({names}) VALUES ({places})", values)


@pytest.mark.parametrize("state", ROWS)
def test_every_state_can_be_held(sandbox: Database, state: str) -> None:
    insert(sandbox, state)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("available", {"state": "pending"}, "outbox_state_known"),
    ("available", {"state": ""}, "outbox_state_known"),
    ("claimed", {"claim": None}, "outbox_claim_named"),
    ("transmitting", {"claim": None}, "outbox_claim_named"),
    ("in_doubt", {"claim": None}, "outbox_claim_named"),
    ("available", {"settled_at": "now"}, "outbox_settled_once"),
    ("claimed", {"settled_at": "now"}, "outbox_settled_once"),
    ("in_doubt", {"settled_at": "now", "message": None}, "outbox_settled_once"),
    *((state, {"settled_at": None}, "outbox_settled_once") for state in ("sent", "skipped", "failed")),
    ("skipped", {"reason": None}, "outbox_reason_given"),
    ("failed", {"reason": None}, "outbox_reason_given"),
    *((state, {"message": b"x"}, "outbox_message_forgotten") for state in ("sent", "skipped", "failed")),
    *(
        (state, {"recipient": "jane@example.org"}, "outbox_message_forgotten")
        for state in ("sent", "skipped", "failed")
    ),
    ("available", {"scheduled_at": None}, "outbox_available_scheduled"),
]


@pytest.mark.parametrize(("state", "change", "constraint"), REFUSED)
def test_what_an_event_cannot_become(sandbox: Database, state: str, change: dict[str, Any], constraint: str) -> None:
    insert(sandbox, state)
    places = ", ".join(f"{name} = %({name})s" for name in change)
    with pytest.raises(errors.CheckViolation) as caught:
        sandbox.execute(f"UPDATE pgherald.outbox SET {places}", change)  # type: ignore[arg-type]
    assert caught.value.diag.constraint_name == constraint


def test_every_refusal_is_tested_and_capture_pays_for_none(sandbox: Database) -> None:
    triggers = sandbox.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'pgherald.outbox'::regclass AND tgtype = 1 | 16"
    )
    assert {name for (name,) in triggers} == {constraint for _, _, constraint in REFUSED}
    # The server parses a CHECK's text for each row that a row trigger inserts: some 10 µs.
    paid = sandbox.execute(
        """SELECT conname FROM pg_constraint WHERE conrelid = 'pgherald.outbox'::regclass AND contype = 'c'
            UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = 'pgherald.outbox'::regclass AND tgtype & 4 > 0"""
    )
    assert paid == []


@pytest.mark.parametrize(
    "column", ["rule", "key", "state", "attempt", "in_doubt_count", "captured_at", "captured_xid", "history"]
)
def test_what_an_event_must_have(sandbox: Database, column: str) -> None:
    with pytest.raises(errors.NotNullViolation) as caught:
        insert(sandbox, "available", **{column: None})
    assert caught.value.diag.column_name == column


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO pgherald.secret DEFAULT VALUES", "secret_pkey"),
        ("INSERT INTO pgherald.secret (singleton) VALUES (false)", "secret_singleton"),
        ("INSERT INTO pgherald.rate_limit DEFAULT VALUES", "rate_limit_pkey"),
        ("INSERT INTO pgherald.rate_limit (singleton) VALUES (false)", "rate_limit_singleton"),
        ("UPDATE pgherald.rate_limit SET rate = 0", "rate_limit_rate_positive"),
        (
            "INSERT INTO pgherald.rule (rule, \"table\", table_name, key, \"column\", becomes, capture) VALUES ('x', 'pgherald.rule', '', '{}', '', '{}', 'x')",
            "rule_capture_known",
        ),
        ("INSERT INTO pgherald.rule SELECT * FROM pgherald.rule", "rule_pkey"),
        (
            "INSERT INTO pgherald.handled (rule, key, why) VALUES ('x', '1', 'existing'), ('x', '1', 'purged')",
            "handled_pkey",
        ),
        ("INSERT INTO pgherald.handled (rule, key, why) VALUES ('x', '1', 'whim')", "handled_why_known"),
    ],
)
def test_the_other_tables(sandbox: Database, statement: Any, constraint: str) -> None:
    with pytest.raises(errors.IntegrityError) as caught:
        sandbox.execute(statement)
    assert caught.value.diag.constraint_name == constraint


def test_numbers_are_the_databases_to_give(sandbox: Database) -> None:
    with pytest.raises(errors.GeneratedAlways):
        insert(sandbox, "available", id=7)
