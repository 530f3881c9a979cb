"""The daemon's start and signals: what waits for the database, what stops it, and what is remembered."""

import asyncio
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from listener.config.settings import Settings
from listener.daemon.daemon import Daemon
from listener.errors import DatabaseUnavailable, SchemaError
from tests.support.clock import jumping, now


class FakeStart:
    """Replaces a daemon's reloader and registry: the first `failures` tries of the start fail with `error`."""

    def __init__(self, daemon: Any, failures: int, error: Exception) -> None:
        self.registered = 0
        self.secret = b"s" * 32
        self.runtime = SimpleNamespace()
        self._left = failures
        self._error = error
        daemon._reloader = daemon._registry = self

    async def first(self) -> Any:
        return self.runtime

    async def register(self) -> None:
        if self._left:
            self._left -= 1
            raise self._error
        self.registered += 1


@pytest.fixture
def daemon() -> Any:
    return Daemon(Settings())


@jumping
async def test_the_start_waits_for_the_database_and_tells_the_service_manager(daemon: Any) -> None:
    """After a power failure both start at once, and the database takes longer."""
    waiting: list[str] = []
    daemon._systemd = SimpleNamespace(waiting=waiting.append)
    start = FakeStart(daemon, 3, DatabaseUnavailable("refused"))
    assert await daemon._first_runtime(wait=True) is start.runtime
    assert start.registered == 1
    assert waiting == ["waiting for the database: refused"] * 3


@pytest.mark.parametrize(
    ("wait", "error"), [(False, DatabaseUnavailable("refused")), (True, SchemaError("run `pgherald install`"))]
)
@jumping
async def test_a_start_that_waiting_does_not_help_ends(wait: bool, error: Exception, daemon: Any) -> None:
    start = FakeStart(daemon, 1, error)
    with pytest.raises(type(error)):
        await daemon._first_runtime(wait=wait)
    assert start.registered == 0


@jumping
async def test_a_stop_while_it_waits_for_the_database_is_a_good_end(daemon: Any) -> None:
    """Otherwise systemd would count the stop as a failure, or wait a minute and kill the process."""
    FakeStart(daemon, 1_000_000, DatabaseUnavailable("refused"))
    asyncio.get_running_loop().call_later(30.1, daemon._tasks.stopping.set)
    with structlog.testing.capture_logs(), pytest.raises(SystemExit) as caught:
        await daemon._first_runtime(wait=True)
    assert caught.value.code == 0
    assert now() < 30.2


class Handlers:
    """Collects the signal handlers instead of installing them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._by_number: dict[int, Callable[[], object]] = {}
        monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", self._by_number.__setitem__)

    def send(self, number: signal.Signals) -> None:
        self._by_number[number]()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@jumping
async def test_the_first_signal_stops_in_order_and_the_second_at_once(
    number: signal.Signals, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who presses Ctrl-C twice does not want to wait for a mail server's ten minutes."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    handlers = Handlers(monkeypatch)
    daemon._handle_signals()
    handlers.send(number)
    assert (daemon._tasks.stopping.is_set(), exits) == (True, [])
    handlers.send(number)
    assert exits == [1]


class FakeReloader:
    """Notes reloads, and the state that the service manager is told."""

    def __init__(self, daemon: Any, error: Exception | None = None) -> None:
        self.log: list[str] = []
        self._error = error
        daemon._reloader = self
        daemon._systemd = SimpleNamespace(
            reloading=lambda: self.log.append("reloading"), ready=lambda status: self.log.append("ready")
        )

    async def reload(self, worker: Any) -> None:
        self.log.append("reload")
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(("early", "late"), [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1)])
@jumping
async def test_a_sighup_before_the_daemon_is_ready_is_not_lost(
    early: int, late: int, daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the signal would end the process. Several early ones ask for the same, so one reload answers them."""
    reloader, handlers = FakeReloader(daemon), Handlers(monkeypatch)
    requested = daemon._handle_signals()
    for _ in range(early):
        handlers.send(signal.SIGHUP)
    assert reloader.log == []
    daemon._handle_reload(SimpleNamespace(), requested)
    for _ in range(late):
        handlers.send(signal.SIGHUP)
    await asyncio.sleep(1)
    assert reloader.log.count("reload") == min(early, 1) + late


@jumping
async def test_after_a_reload_that_crashes_the_service_manager_does_not_wait(daemon: Any) -> None:
    """systemd would kill a service that reloads for longer than its time limit."""
    reloader = FakeReloader(daemon, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await daemon._reload(SimpleNamespace())
    assert reloader.log == ["reloading", "reload", "ready"]
