"""The problems above the page and in `top`: each is found, and the worst come first."""

from dataclasses import replace
from typing import Any

import pytest

from listener.db.foreign_locks import LockHolder
from listener.status.overview import Overview, WorkerState
from listener.status.problems import BEHIND_S, NO_REPLY_S, problems
from tests.support.overview import NOW, overview

WORKER = WorkerState(1, "vm:1", "1", NOW, 1.0, True, True, None, 0, True)


def now(*workers: WorkerState, **rule: Any) -> Overview:
    o = overview()
    return replace(o, workers=list(workers), rules=[replace(o.rules[0], **rule)])


@pytest.mark.parametrize(
    ("o", "found"),
    [
        (now(WORKER), []),
        (now(), [("no_daemon", True, "no daemon is running")]),
        (
            now(WORKER, replace(WORKER, name="vm:2", alive=False)),
            [("no_heartbeat", False, "vm:2 has no heartbeat")],
        ),
        (
            now(replace(WORKER, breaker="535 no"), replace(WORKER, name="vm:2", breaker="535 no")),
            [("mail_server", True, "the mail server is unavailable")],
        ),
        (
            now(replace(WORKER, breaker="535 no"), replace(WORKER, name="vm:2")),
            [("mail_server", False, "the mail server is unavailable for vm:1")],
        ),
        (
            now(replace(WORKER, in_flight=2, in_flight_for=NO_REPLY_S + 1)),
            [("no_reply", True, "vm:1 has waited for a reply for 61 s")],
        ),
        (now(replace(WORKER, in_flight=2, in_flight_for=NO_REPLY_S - 1)), []),
        (
            now(replace(WORKER, in_flight=1, in_flight_for=NO_REPLY_S + 1, breaker="timeout")),
            [("mail_server", True, "the mail server is unavailable")],
        ),
        (now(WORKER, suspended_at=NOW, suspended_reason="no column"), [("suspended", True, "paid is suspended")]),
        (now(WORKER, available=1, due_for=BEHIND_S + 1), [("behind", True, "paid is behind")]),
        (now(WORKER, available=1, due_for=BEHIND_S - 1), []),
        (now(WORKER, available=1, due_for=-BEHIND_S), []),
        (now(WORKER, available=1, due_for=9999.0, paused_at=NOW), [("paused", False, "paid is paused")]),
        (
            replace(now(WORKER), foreign_lock_holders=[LockHolder("gate", 7, "app", "psql", None)]),
            [("foreign_lock", False, "the gate lock is held by pid 7 (user app, application psql)")],
        ),
        (
            now(WORKER, replace(WORKER, name="vm:2", breaker="535 no"), suspended_at=NOW, suspended_reason="x"),
            [
                ("suspended", True, "paid is suspended"),
                ("mail_server", False, "the mail server is unavailable for vm:2"),
            ],
        ),
        (
            now(replace(WORKER, name="vm:2", alive=False), paused_at=NOW, suspended_at=NOW, suspended_reason="x"),
            [
                ("no_daemon", True, "no daemon is running"),
                ("suspended", True, "paid is suspended"),
                ("no_heartbeat", False, "vm:2 has no heartbeat"),
                ("paused", False, "paid is paused"),
            ],
        ),
    ],
)
def test_problems(o: Overview, found: list[tuple[str, bool, str]]) -> None:
    assert [(problem.kind, problem.is_bad, problem.title) for problem in problems(o)] == found


def test_the_cause_and_the_time_are_told_and_safe_to_print() -> None:
    [cause] = problems(now(replace(WORKER, breaker="535 \x1b[31mno")))
    assert cause.detail == "535 \ufffd[31mno. Events wait, and none is lost."
    [suspended] = problems(now(WORKER, suspended_at=NOW, suspended_reason="no\u202ecolumn"))
    assert suspended.detail.startswith("since 2026-11-22 20:00:00 UTC: no\ufffdcolumn. Its events wait. Correct ")
