"""The daemons: start, hurt and restart them, and collect each thing that they should not have logged or done."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# A harness that is killed takes its daemons along.
_END_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
_GRACE = 30.0
_PATIENCE = _GRACE + 10.0


class Daemon:
    """One place at which `pgherald run` runs, over and over. `complaints`: what nobody did to it, and yet happened."""

    def __init__(self, number: int, environment: Mapping[str, str], folder: Path, mutant: str | None) -> None:
        self.number = number
        self.complaints: list[str] = []
        self._environment = environment
        self._folder = folder
        launcher = ["tests.chaos.mutants", mutant] if mutant else ["listener"]
        self._command = [*_END_WITH_US, sys.executable, "-m", *launcher, "run"]
        self._turn = 0
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.subprocess.Process | None = None
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def log(self) -> Path:
        return self._folder / f"daemon-{self.number}.{self._turn:04}.log"

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def is_ready(self) -> bool:
        return any(event.get("event") == "ready" for event in _events(self.log))

    async def start(self) -> None:
        self._turn += 1
        with self.log.open("wb") as stream:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=stream,
            )  # fmt: skip
        watching = asyncio.create_task(self._watch(self._process, self.log))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def start_again(self) -> None:
        """Unless it runs."""
        if self.process.returncode is not None:
            await self.start()

    async def kill(self) -> None:
        process = self._ending = self.process
        if process.returncode is None:
            _send(process, signal.SIGKILL)
        await process.wait()

    async def stop(self, *, twice: bool = False) -> None:
        """SIGTERM, and its exit status as it must be."""
        process = self._ending = self.process
        if process.returncode is not None:
            return
        # Python has not come to our code yet: nothing is there to be ended in an orderly way.
        early = not self.log.read_bytes()
        _send(process, signal.SIGTERM)
        if twice:
            await asyncio.sleep(0.05)
            if process.returncode is None:
                _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(_PATIENCE):
                status = await process.wait()
        except TimeoutError:
            self._complain(f"did not end within {_PATIENCE:g} s of SIGTERM")
            _send(process, signal.SIGKILL)
            await process.wait()
            return
        # A second signal may come when it has handled the first, and is about to end anyway.
        over = twice and any(event.get("event") == "stopped" for event in _events(self.log))
        killed = status == -signal.SIGTERM and (early or over)
        if status != 0 and not killed and not (twice and status == 1):
            self._complain(f"exit status {status} after SIGTERM")

    def pause(self) -> None:
        if self.process.returncode is None:
            _send(self.process, signal.SIGSTOP)

    def go_on(self) -> None:
        if self.process.returncode is None:
            _send(self.process, signal.SIGCONT)

    def read_logs(self) -> None:
        """Complain about everything in the logs that is no log event, or one of an error of its own."""
        for log in sorted(self._folder.glob(f"daemon-{self.number}.*.log")):
            lines = log.read_text(errors="replace").split("\n")
            # A killed process may have left half a line.
            for line in lines[:-1]:
                try:
                    event = json.loads(line)
                except ValueError:
                    self.complaints.append(f"{log.name}: {line}")
                    break
                if event.get("level") == "critical":
                    self.complaints.append(f"{log.name}: {line}")

    async def _watch(self, process: asyncio.subprocess.Process, log: Path) -> None:
        status = await process.wait()
        if process is not self._ending:
            self._complain(f"ended by itself, exit status {status}: {log.read_text(errors='replace')[-500:]}")

    def _complain(self, what: str) -> None:
        self.complaints.append(f"{self.log.name}: {what}")


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Not by its own send_signal(), which looks for an exit first, and takes it from asyncio: that reports 255 then."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _events(log: Path) -> list[dict[str, object]]:
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
