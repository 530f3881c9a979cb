"""An outage is logged, and does not flood the log."""

from typing import Any

import pytest

from listener import outage
from listener.errors import ConfigError, DatabaseUnavailable, RuleBroken, SchemaError
from listener.outage import Outage


class Recorded:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

        self.errors: list[str] = []

    def warning(self, event: str, *, error: str, **more: Any) -> None:
        self.lines.append((event, error))

    def error(self, event: str, *, error: str, **more: Any) -> None:
        self.errors.append(error)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 100.0}
    monkeypatch.setattr(outage.time, "monotonic", lambda: now["s"])
    return now


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(outage, "log", recorded)
    return recorded


def test_the_same_error_is_logged_every_ten_seconds(clock: dict[str, float], log: Recorded) -> None:
    database = Outage("database_unavailable", first=0.1, longest=1.0)
    for _ in range(25):
        database.failed(OSError("refused"))
        clock["s"] += 1
    assert log.lines == [("database_unavailable", "refused")] * 3


def test_a_new_error_is_logged_after_a_second(clock: dict[str, float], log: Recorded) -> None:
    database = Outage("database_unavailable", first=0.1, longest=1.0)
    for at, error in ((0.0, "refused"), (0.5, "timeout"), (1.0, "timeout"), (1.5, "refused"), (2.0, "refused")):
        clock["s"] = 100 + at
        database.failed(OSError(error))
    assert [error for _, error in log.lines] == ["refused", "timeout", "refused"]


def test_after_a_recovery_the_same_error_is_new_and_the_delay_short(clock: dict[str, float], log: Recorded) -> None:
    database = Outage("database_unavailable", first=0.1, longest=100.0)
    delays = [database.failed(OSError("refused")) for _ in range(8)]
    assert delays[-1] > 5
    database.recovered()
    assert database.failed(OSError("refused")) <= 0.1
    assert len(log.lines) == 1
    database.recovered()
    clock["s"] += 1
    database.failed(OSError("refused"))
    assert len(log.lines) == 2


def test_what_no_waiting_mends_is_an_error(clock: dict[str, float], log: Recorded) -> None:
    webhook = Outage("webhook_failed", first=0.0, longest=0.0)
    for error in (
        DatabaseUnavailable("down"),
        RuleBroken("no column"),
        SchemaError("no schema"),
        ConfigError("no key"),
    ):
        webhook.failed(error)
        clock["s"] += 1
    assert log.lines == [("webhook_failed", "down")]
    assert log.errors == ["no column", "no schema", "no key"]
