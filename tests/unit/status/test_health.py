"""Readiness: each part is judged by what it did lately, and an outage of one names that one."""

import asyncio
import math
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from listener.config.sections import DeliverySettings
from listener.config.settings import Settings
from listener.errors import DatabaseUnavailable
from listener.status import capture as module
from listener.status.health import Health
from listener.worker.suspensions import Suspension


class Daemon:
    """Stands for listener, breaker and worker. All is well, unless a test changes it."""

    def __init__(self) -> None:
        now = asyncio.get_running_loop().time()
        self.listener: Any = SimpleNamespace(
            self_test=SimpleNamespace(passed_at=now), listening=True, state="listening"
        )
        self.breaker: Any = SimpleNamespace(is_open=False, is_probing=False, reason="421 too busy")
        self.worker: Any = SimpleNamespace(
            last_progress_at=now, in_flight_count=2, suspended={}, busy={}, runtime=SimpleNamespace(delivery=SimpleNamespace(rules={"new": None}))
        )  # fmt: skip
        self.health = Health(Settings(), self.listener, self.breaker)
        self.health.started(self.worker)


@pytest.fixture
async def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    async def refuse(url: str) -> None:
        raise DatabaseUnavailable("connection refused")

    monkeypatch.setattr(module, "connect_async", refuse)
    return Daemon()


async def test_all_parts_have_lately_worked(daemon: Daemon) -> None:
    parts = await daemon.health.parts()
    assert {name for name, part in parts.items() if not part.ok} == {"schema"}
    assert parts["schema"].detail == "connection refused"
    assert (daemon.health.in_flight_count, list(daemon.health.rules)) == (2, ["new"])


async def test_before_the_start_nothing_is_ready(daemon: Daemon) -> None:
    health = Health(Settings(), daemon.listener, daemon.breaker)
    parts = await health.parts()
    assert not health.is_ready
    assert (parts["daemon"].detail, parts["claims"].detail) == ("starting", "not started")
    assert (health.in_flight_count, list(health.rules)) == (0, ["dateplan_verified"])


@pytest.mark.parametrize(
    ("change", "part", "ok", "detail"),
    [
        ({"health.stopping": True}, "daemon", False, "stopping"),
        ({"listener.self_test.passed_at": -60.0}, "listen", False, "received its own test notification"),
        ({"listener.listening": False, "listener.state": "unreachable"}, "listen", True, "polling"),
        ({"listener.listening": False, "listener.state": "down"}, "listen", False, "connection is down"),
        ({"worker.last_progress_at": -60.0}, "claims", False, "last claimed or settled"),
        ({"worker.last_progress_at": -math.inf}, "claims", False, "no claim yet"),
        ({"worker.last_progress_at": -math.inf, "breaker.is_open": True}, "claims", True, "paused until"),
        ({"breaker.is_open": True}, "smtp", False, "breaker open: 421 too busy"),
        ({"breaker.is_probing": True}, "smtp", True, "half-open"),
        ({}, "rules", True, "no rule is suspended"),
        (
            {"worker.suspended": {"paid": Suspension(datetime(2026, 11, 22, 17, 44, tzinfo=UTC), "no column")}},
            "rules",
            True,
            "paid: suspended since 2026-11-22 17:44:00 UTC: no column",
        ),
        ({"worker.busy": {"paid": -math.inf}}, "rules", True, "paid: its lookup has been running for"),
        ({"worker.busy": {"paid": math.inf}}, "rules", True, "no rule is suspended"),
    ],
)
async def test_one_part(daemon: Daemon, change: dict[str, Any], part: str, ok: bool, detail: str) -> None:
    for path, value in change.items():
        *parents, name = path.split(".")
        owner: Any = daemon
        for parent in parents:
            owner = getattr(owner, parent)
        # A time is given as seconds before now.
        setattr(owner, name, getattr(owner, name) + value if isinstance(value, float) else value)
    found = (await daemon.health.parts())[part]
    assert found.ok is ok
    assert detail in found.detail


async def test_a_quiet_daemon_is_ready_between_its_polls(daemon: Daemon) -> None:
    health = Health(Settings(delivery=DeliverySettings(poll="10m")), daemon.listener, daemon.breaker)
    health.started(daemon.worker)
    daemon.listener.self_test.passed_at -= 650.0
    daemon.worker.last_progress_at -= 650.0
    parts = await health.parts()
    assert (parts["listen"].ok, parts["claims"].ok) == (True, True)
    daemon.listener.self_test.passed_at -= 1500.0
    assert not (await health.parts())["listen"].ok


async def test_a_silent_database_blocks_no_probe(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(url: str) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "connect_async", hang)
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    first, second = await asyncio.gather(daemon.health.parts(), daemon.health.parts())
    assert first["schema"].detail == "the database did not answer within 0.05 s"
    assert second["schema"].detail == "not checked yet", "the second request does not wait for the first one's check"
