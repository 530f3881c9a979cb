"""The words and the JSON of `status`."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from listener.admin.status import STATES, OutboxStatus
from listener.cli.status import _as_json, _show
from listener.db.foreign_locks import LockHolder

TOKYO = timezone(timedelta(hours=9))
AT = datetime(2026, 11, 22, 17, 44, tzinfo=UTC)
WORKER: dict[str, Any] = {
    "id": 1,
    "name": "vm:1",
    "version": "0.1.0",
    "started_at": AT,
    "seen_seconds_ago": 1.0,
    "alive": True,
    "listening": True,
    "breaker": None,
    "in_flight": 2,
    "in_flight_for": 9.9,
    "leader": True,
}


def now(**changes: Any) -> OutboxStatus:
    values: dict[str, Any] = {
        "rules": {"paid": dict.fromkeys(STATES, 0) | {"in_doubt": 1}, "gone": dict.fromkeys(STATES, 0)},
        "reports": {"paid": {"bounced": 3, "complained": 1}, "gone": {"bounced": 0, "complained": 0}},
        "oldest_due_age_s": None,
        "workers": [WORKER],
        "outbox": {"bytes": 8192, "size": "8192 bytes", "dead_rows": 3, "rows": 1},
        "paused": {},
        "suspended": {},
        "asleep": True,
        "foreign_locks": [],
    }
    return OutboxStatus(**{**values, **changes})


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> list[str]:
    _show(now(**changes))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_an_idle_outbox(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys)
    assert lines[0].split() == ["rule", *STATES, "bounced", "complained"]
    assert lines[1].split() == ["paid", "0", "0", "0", "1", "0", "0", "0", "3", "1"]
    assert lines[2].split() == ["gone", *"000000000"]
    assert lines[3:] == [
        "no event is waiting",
        "1 event in doubt: pgherald events list --state in_doubt",
        "worker vm:1: listening, leader, 2 in flight",
        "outbox: 8192 bytes, 1 row, about 3 dead",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"oldest_due_age_s": 12.4}, "the first waiting event has been due for 12 s"),
        (
            {"rules": {"paid": dict.fromkeys(STATES, 0) | {"available": 1}}},
            "no waiting event is due: they are to be retried later, or their rule is paused or suspended",
        ),
        ({"suspended": {"paid": (AT, "no column")}}, "paid: suspended since 2026-11-22 17:44:00 UTC: no column"),
        (
            {"paused": {"paid": AT.astimezone(TOKYO)}},
            "paid: paused since 2026-11-22 17:44:00 UTC; resume with `pgherald resume paid`",
        ),
        ({"workers": []}, "no daemon is running"),
        (
            {"workers": [{**WORKER, "in_flight_for": 75.0}]},
            "worker vm:1: listening, leader, 2 in flight, the first for 75 s",
        ),
        ({"workers": [{**WORKER, "listening": False, "leader": False}]}, "worker vm:1: polling, 2 in flight"),
        ({"workers": [{**WORKER, "alive": False, "seen_seconds_ago": 61.0}]}, "worker vm:1: no heartbeat for 61 s"),
        (
            {"workers": [{**WORKER, "breaker": "connect: refused"}]},
            "worker vm:1: listening, leader, 2 in flight, breaker open: connect: refused",
        ),
        (
            {"foreign_locks": [LockHolder("gate", 7, "app", "psql", None)]},
            "the gate lock is held by pid 7 (user app, application psql), which is not a daemon's session: "
            "SELECT pg_terminate_backend(7)",
        ),
    ],
)
def test_a_line_for_each_thing_to_know(capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str) -> None:
    assert line in shown(capsys, **changes)


def test_the_json_for_scripts() -> None:
    holder = LockHolder("gate", 7, "app", "psql", None)
    assert _as_json(
        now(
            paused={"paid": AT},
            suspended={"paid": (AT, "no column")},
            foreign_locks=[holder],
            workers=[{**WORKER, "alive": False}],
        )
    ) == {
        "rules": {
            "paid": dict.fromkeys(STATES, 0) | {"in_doubt": 1, "bounced": 3, "complained": 1},
            "gone": dict.fromkeys([*STATES, "bounced", "complained"], 0),
        },
        "oldest_due_seconds": None,
        "workers": [{**WORKER, "alive": False, "started_at": "2026-11-22T17:44:00+00:00"}],
        "listening": False,
        "gate": "asleep",
        "foreign_locks": [
            {
                "lock": "gate",
                "pid": 7,
                "user": "app",
                "application": "psql",
                "gid": None,
                "remedy": "SELECT pg_terminate_backend(7)",
            }
        ],
        "outbox": {"bytes": 8192, "size": "8192 bytes", "dead_rows": 3, "rows": 1},
        "paused": {"paid": "2026-11-22T17:44:00+00:00"},
        "suspended": {"paid": {"since": "2026-11-22T17:44:00+00:00", "reason": "no column"}},
    }
