"""A stop of capture counts as told by a daemon's log and metrics, and only then."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.soak.gaps import DaemonLogs, Gaps


def log(folder: Path, event: str, rule: str, at: float, end: str = "\n") -> None:
    moment = datetime.fromtimestamp(at, UTC).isoformat()
    with (folder / "daemon-0.0001.log").open("a") as file:
        file.write(json.dumps({"timestamp": moment, "level": "error", "event": event, "rule": rule}) + end)


@asynccontextmanager
async def metrics(shown: list[str]) -> AsyncIterator[int]:
    """Serve the first text of the list, and yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.0 200 OK\r\n\r\n{shown[0]}\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_stop_and_its_return_are_seen_in_log_and_gauge(tmp_path: Path) -> None:
    shown = ['pgherald_capturing{rule="booking"} 0.0']
    async with metrics(shown) as port:
        gaps = Gaps(DaemonLogs(tmp_path), [port])
        async with gaps.gap("booking", "test") as stop:
            log(tmp_path, "capture_stopped", "booking", time.time())
            await gaps.told(stop)
            assert gaps.touched("booking", time.time())
            shown[0] = 'pgherald_capturing{rule="booking"} 1.0'
            log(tmp_path, "capture_resumed", "booking", time.time())
            await gaps.resumed(stop)
    assert stop.seen
    assert not gaps.touched("booking", time.time() + 1)
    assert gaps.false_alarms() == []


@pytest.mark.parametrize("rule", ["ticket", "booking"])
async def test_what_was_logged_of_another_rule_or_before_tells_nothing(tmp_path: Path, rule: str) -> None:
    gaps = Gaps(DaemonLogs(tmp_path), [])
    log(tmp_path, "capture_stopped", rule, time.time() + (0.1 if rule == "ticket" else -60))
    async with gaps.gap("booking", "test") as stop:
        assert await DaemonLogs(tmp_path).wait_for("capture_stopped", "booking", stop.begun, 0.2) is None
    assert not stop.seen
    assert [line.rule for line in gaps.false_alarms()] == [rule]


def test_half_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    logs = DaemonLogs(tmp_path)
    log(tmp_path, "capture_stopped", "booking", 1.0, end="")
    assert logs.lines() == []
    with (tmp_path / "daemon-0.0001.log").open("a") as file:
        file.write("\n")
    assert [line.rule for line in logs.lines()] == ["booking"]
    assert len(logs.lines()) == 1
