"""The service manager is pinged only while the work goes on, and nothing depends on it."""

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from listener.config.settings import Settings
from listener.daemon import systemd as module
from listener.daemon.daemon import Daemon
from listener.daemon.systemd import Systemd
from tests.support import PATIENCE, wait_until_async
from tests.support.manager import service_manager


async def test_no_pings_while_the_work_stands_still(tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager:
        turns, asked = True, 0

        def goes_on(seconds: float) -> bool:
            nonlocal asked
            assert seconds == 0.1
            asked += 1
            return turns

        told = Systemd({**manager.settings, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())})
        watching = asyncio.create_task(told.watch(goes_on, lambda: "fine"))
        await wait_until_async(lambda: asked >= 2)
        assert manager.told(1) == ["WATCHDOG=1"]
        turns = False
        # An answer that was given before may still be on its way.
        before = asked
        await wait_until_async(lambda: asked > before)
        manager.forget()
        before = asked
        await wait_until_async(lambda: asked > before + 3)
        assert manager.silent(0.01)
        watching.cancel()


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}]
)
async def test_nobody_asked_for_pings(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change of the status is said all the same, once."""
    with service_manager(tmp_path) as manager:
        statuses = iter(["listening", "listening", "breaker open"])
        told = Systemd({**manager.settings, **environment})
        monkeypatch.setattr(module, "_STATUS_INTERVAL_S", 0.01)
        watching = asyncio.create_task(told.watch(lambda _: True, lambda: next(statuses, "breaker open")))
        said = await asyncio.to_thread(manager.told, PATIENCE)
        assert said == ["STATUS=breaker open"]
        assert manager.silent(0.05)
        watching.cancel()


def test_a_manager_that_is_not_there_or_does_not_read() -> None:
    Systemd({}).ready("fine")
    Systemd({"NOTIFY_SOCKET": "/nonexistent/socket"}).ready("fine")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind("")
        deaf = Systemd({"NOTIFY_SOCKET": "@" + full.getsockname()[1:].decode()})
        for _ in range(5000):
            deaf.stopping()
        assert full.recv(100).startswith(b"STOPPING=1\n")


def test_a_status_is_one_line(tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager:
        Systemd(manager.settings).waiting("no answer\nREADY=1")
        assert manager.told(1) == ["STATUS=no answer READY=1"]


@pytest.mark.parametrize(("worker_age", "lease_age", "goes_on"), [(0, 0, True), (99, 0, False), (0, 99, False)])
async def test_both_loops_must_go_round(worker_age: float, lease_age: float, goes_on: bool) -> None:
    daemon = Daemon(Settings())
    now = asyncio.get_running_loop().time()
    daemon._lease.last_iteration_at = now - lease_age
    assert daemon._loops_alive(SimpleNamespace(last_iteration_at=now - worker_age), 60.0) is goes_on  # type: ignore[arg-type]


def test_what_a_server_says_does_not_drive_the_terminal_of_systemctl(tmp_path: Path) -> None:
    with service_manager(tmp_path) as manager:
        Systemd(manager.settings).waiting("the database: \x1b[31m\u202e\nMAINPID=1 \udc80")
        assert manager.told(5) == ["STATUS=the database: \ufffd[31m\ufffd MAINPID=1 \ufffd"]
