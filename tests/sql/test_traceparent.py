"""A valid trace context of the application is stored with the event. An invalid one is ignored."""

from typing import Any

import psycopg
import pytest

from tests.support.claimant import Claimant
from tests.support.database import Database

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PARTED = """
    CREATE TABLE app.plans (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE app.north PARTITION OF app.plans FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.plans FOR VALUES IN ('south');
    SELECT pgherald.watch('plans', 'app.plans', '{id,region}');
"""
PLAIN = """
    CREATE TABLE app.plans (id int PRIMARY KEY, region text, status text);
    SELECT pgherald.watch('plans', 'app.plans', capture => %(per)s);
"""


@pytest.fixture(params=["row", "statement", "partitioned"])
def plans(sandbox: Database, request: pytest.FixtureRequest) -> Database:
    if request.param == "partitioned":
        sandbox.execute(PARTED)
    else:
        sandbox.execute(PLAIN.replace("%(per)s", f"'{request.param}'"))  # type: ignore[arg-type]
    return sandbox


def kept(database: Database) -> list[Any]:
    return [event["traceparent"] for event in database.events()]


def change(conn: psycopg.Connection[Any]) -> None:
    conn.execute("INSERT INTO app.plans VALUES (1, 'north', 'PE'), (2, 'south', 'VE')")
    conn.execute("UPDATE app.plans SET status = 'VE', region = 'south'")


def test_every_way_of_capture_keeps_it(plans: Database) -> None:
    conn = plans.connect()
    with conn.transaction():
        conn.execute("SELECT set_config('pgherald.traceparent', %s, true)", (TRACEPARENT,))
        change(conn)
    assert kept(plans) == [TRACEPARENT] * 2
    conn.execute("INSERT INTO app.plans VALUES (3, 'north', 'VE')")
    assert kept(plans)[2:] == [None], "SET LOCAL ends with its transaction"
    claimed = Claimant(plans.connect(), "worker").claim(rules=["plans"])
    assert [event["traceparent"] for event in claimed] == [TRACEPARENT, TRACEPARENT, None]


def test_without_it(plans: Database) -> None:
    change(plans.connect())
    assert kept(plans) == [None, None]


HOSTILE = [
    "",
    "x",
    TRACEPARENT[:-1],
    TRACEPARENT + "0",
    TRACEPARENT.upper(),
    TRACEPARENT[:-1] + "\n",
    "jane@example.org".ljust(55),
    "'; DROP TABLE pgherald.outbox; --",
    "ü" * 55,
    "a" * 53 + "ü",
    "🎉" * 20,
    "a" * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_none_is_left_out(plans: Database, text: str) -> None:
    conn = plans.connect()
    conn.execute("SELECT set_config('pgherald.traceparent', %s, false)", (text,))
    change(conn)
    assert kept(plans) == [None, None]


@pytest.mark.parametrize(
    "text", [b"\xff" * 55, b"\x80" * 55, b"a" * 54 + b"\xe2", b"a" * 53 + b"\xe2\x82", b"a" * 52 + b"\xf0\x9f\x8e"]
)
def test_no_text_at_all(plans: Database, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that comes with the connection is never looked at for its encoding."""
    monkeypatch.setenv("PGOPTIONS", f"-c pgherald.traceparent={text.decode(errors='surrogateescape')}")
    conn = plans.connect()
    monkeypatch.delenv("PGOPTIONS")
    change(conn)
    assert kept(plans) == [None, None]
    conn.execute("INSERT INTO app.plans SELECT g, 'north', 'VE' FROM generate_series(3, 100) AS g")
    assert len(Claimant(plans.connect(), "worker").claim(rules=["plans"])) == 100
