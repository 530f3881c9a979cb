"""The installed command, as a subprocess: run to its end, or as a daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import PATIENCE, wait_until

PROGRAM = Path(sys.executable).parent / "pgherald"
# A test process that is killed, as pytest-timeout and SIGTERM do, runs no `finally`; on Linux its daemons end with it.
_END_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class Daemon:
    """A running `pgherald run`. `events` are its log's, as dicts; `lines` all that it said on stderr."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name="daemon's log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_event(self, name: str, timeout: float = PATIENCE, **fields: object) -> dict[str, Any]:
        """The first log event of that name with these fields, past or to come."""

        def found() -> dict[str, Any] | None:
            over = not self._reader.is_alive()
            for event in list(self.events):
                if event.get("event") == name and fields.items() <= event.items():
                    return event
            assert not over, f"the daemon ended before {name!r}; it said: {self.tail()}"
            return None

        try:
            event = wait_until(found, timeout)
        except AssertionError as exc:
            raise AssertionError(f"no log event {name!r} {fields or ''}: {exc}; it said: {self.tail()}") from None
        assert event is not None
        return event

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, when it ends by itself."""
        status = self.process.wait(timeout)
        self._reader.join()
        return status

    def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, as when the machine runs out of memory."""
        self.process.kill()
        self.wait()

    def tail(self) -> str:
        return "\n".join(self.lines[-20:]) or "nothing"

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self.lines.append(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    self.events.append(event)


@dataclass
class Pgherald:
    """``pgherald("status", "--json")`` runs the command to its end; ``with pgherald.daemon() as daemon`` keeps it running.

    `settings` is the environment on top of the outside's, from which all that configures pgherald or libpq is taken.
    """

    settings: Mapping[str, str]
    folder: Path

    def __call__(
        self, *arguments: object, env: Mapping[str, str] | None = None, input: str | None = None, timeout: float = 60.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """With `check`, an exit status other than 0 is an error that shows what was said."""
        done = subprocess.run(
            self._command(arguments), env=self._environment(env), cwd=self.folder, input=input, timeout=timeout,
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    @contextmanager
    def daemon(self, *arguments: object, env: Mapping[str, str] | None = None, ready: bool = True) -> Iterator[Daemon]:
        """`pgherald run`, once it is ready; in the end SIGTERM, unless the test has ended it, and exit status 0."""
        process = subprocess.Popen(
            [*_END_WITH_US, *self._command(["run", *arguments])], env=self._environment(env), cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        daemon = Daemon(process)
        try:
            if ready:
                daemon.wait_event("ready")
            yield daemon
            if process.poll() is None:
                status = daemon.stop()
                assert status == 0, f"exit status {status} after SIGTERM; it said: {daemon.tail()}"
            assert not any("Traceback" in line for line in daemon.lines), "\n".join(daemon.lines)
        finally:
            if process.poll() is None:
                process.kill()
            daemon.wait()

    @staticmethod
    def _command(arguments: Sequence[object]) -> list[str]:
        return [str(PROGRAM), *map(str, arguments)]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGHERALD_"))}
        return {**outside, **self.settings, **(more or {})}
