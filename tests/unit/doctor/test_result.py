"""Findings have a remedy exactly where there is something to do, and results have the fields of `doctor --json`."""

import json
from dataclasses import asdict

from listener.doctor.result import CheckResult, NotChecked, State, fault, ok, warn


def test_states_and_remedies() -> None:
    assert (ok("fine").state, ok("fine").remedy) == (State.ok, "")
    assert (warn("late", "wait").state, warn("late", "wait").remedy) == (State.warn, "wait")
    assert (fault("gone", "restore").state, fault("gone", "restore").seen) == (State.fault, "gone")


def test_the_fields_of_the_json() -> None:
    result = CheckResult("queue", State.warn, "60% full", "end the session")
    assert json.loads(json.dumps(asdict(result))) == {
        "check": "queue", "state": "warn", "seen": "60% full", "remedy": "end the session",
    }  # fmt: skip


def test_a_check_that_cannot_decide_may_name_a_remedy() -> None:
    assert (str(NotChecked("no connection")), NotChecked("no connection").remedy) == ("no connection", "")
    assert NotChecked("no privilege", "GRANT it").remedy == "GRANT it"
