"""The times in which a rule's capture was stopped, and when the daemons said so."""

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# The promise: a stop of capture is told within this time.
TOLD_S = 15.0
_STEP_S = 0.1


@dataclass(slots=True)
class Stop:
    """A stop of capture. `told` and `resumed`: seconds from the commit to the log event, or None if none came in time.

    `gauge`: whether pgherald_capturing showed the stop at one daemon and the return at all.
    """

    rule: str
    how: str
    begun: float
    over: float | None = None
    told: float | None = None
    resumed: float | None = None
    gauge: bool = False

    @property
    def seen(self) -> bool:
        return self.told is not None and self.resumed is not None and self.gauge


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log event of a daemon that concerns one rule. `at`: seconds since the epoch."""

    event: str
    rule: str
    level: str
    at: float


class DaemonLogs:
    """Log events about rules, of the daemons whose logs are in a folder. They are read as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._lines: list[LogLine] = []

    def lines(self) -> list[LogLine]:
        """Return the events so far."""
        for path in sorted(self._folder.glob("daemon-*.log")):
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                # Without the part of a line that is being written.
                whole = log.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole[0]) + len(whole[1])
            self._lines += [line for text in whole[0].splitlines() if (line := _parsed(text)) is not None]
        return self._lines

    async def wait_for(self, event: str, rule: str, since: float, timeout: float = TOLD_S) -> float | None:
        """Return when a daemon logged the event, not before `since`. Return None after so many seconds from now."""
        end = time.monotonic() + timeout
        while True:
            for line in self.lines():
                if line.event == event and line.rule == rule and line.at >= since:
                    return line.at
            if time.monotonic() > end:
                return None
            await asyncio.sleep(_STEP_S)


class Gaps:
    """The stops of capture so far. `ports`: where the daemons show their metrics."""

    def __init__(self, logs: DaemonLogs, ports: list[int]) -> None:
        self.stops: list[Stop] = []
        self._logs = logs
        self.ports = ports

    def touched(self, rule: str, begun: float) -> bool:
        """Return whether capture was stopped at any time since `begun`."""
        return any(stop.rule == rule and (stop.over is None or stop.over >= begun) for stop in self.stops)

    @asynccontextmanager
    async def gap(self, rule: str, how: str) -> AsyncIterator[Stop]:
        """Let capture be stopped inside the block. Its statements commit the stop, then the return of capture.

        The block calls `told` in between and `resumed` at its end.
        """
        stop = Stop(rule, how, time.time())
        self.stops.append(stop)
        try:
            yield stop
        finally:
            stop.over = time.time()

    async def told(self, stop: Stop) -> None:
        """Wait until a daemon has told that capture is stopped. The statement that stopped it has just committed."""
        committed = time.time()
        at = await self._logs.wait_for("capture_stopped", stop.rule, stop.begun)
        if at is not None:
            stop.told = max(0.0, at - committed)
            stop.gauge = await self._shown(stop.rule, 0, everywhere=False)

    async def resumed(self, stop: Stop) -> None:
        """Wait until a daemon has told that capture is back. Nothing is waited for if no stop was told."""
        if stop.told is None:
            return
        committed = time.time()
        at = await self._logs.wait_for("capture_resumed", stop.rule, stop.begun + stop.told)
        if at is not None:
            stop.resumed = max(0.0, at - committed)
            stop.gauge = stop.gauge and await self._shown(stop.rule, 1, everywhere=True)

    def withdraw(self, stop: Stop) -> None:
        """Forget a stop that did not come about."""
        self.stops.remove(stop)

    def false_alarms(self) -> list[LogLine]:
        """Return the stops that were told of a rule whose capture was not stopped at that time."""
        return [
            line
            for line in self._logs.lines()
            if line.event == "capture_stopped"
            and not any(
                stop.rule == line.rule and stop.begun <= line.at <= (stop.over or line.at) + TOLD_S
                for stop in self.stops
            )
        ]

    async def _shown(self, rule: str, value: int, *, everywhere: bool) -> bool:
        wanted = re.compile(rf'^pgherald_capturing{{rule="{rule}"}} {value}(\.0)?$', re.MULTILINE)
        end = time.monotonic() + TOLD_S
        while time.monotonic() < end:
            found = [bool(wanted.search(await asyncio.to_thread(_metrics, port))) for port in self.ports]
            if all(found) if everywhere else any(found):
                return True
            await asyncio.sleep(_STEP_S)
        return False


def _metrics(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _parsed(text: bytes) -> LogLine | None:
    try:
        event = json.loads(text)
        return LogLine(
            event["event"], event["rule"], event["level"], datetime.fromisoformat(event["timestamp"]).timestamp()
        )
    except (ValueError, KeyError):
        return None
