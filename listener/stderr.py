"""The standard error stream of the daemon: a thread writes it, and the journal gets the level of each line.

A pipe that nobody reads and a full disk concern the log alone. Without the thread, the next line would block delivery, or
end the daemon.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable

# About 3,000 lines: what a daemon logs in seconds at its fastest, and in days at rest.
_MAX_QUEUED_BYTES = 1024 * 1024
# A pipe takes this much at once, so that lines of several processes are not mixed (pipe(7)).
_MAX_WRITE_BYTES = select.PIPE_BUF
_RETRY_INTERVAL_S = 1.0
# The lines of a burst are written together: the thread would otherwise take a tenth of the daemon's time.
_GATHER_S = 0.01
# The lines that are still queued at the end of the process get this long.
_LAST_WRITES_TIMEOUT_S = 1.0
# syslog(3), as sd-daemon(3) wants them.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class BackgroundStream(io.TextIOBase):
    """A text stream that never blocks and never fails: a thread writes to `descriptor`.

    Up to 1 MiB waits for a descriptor that takes nothing. Once that is full, further lines are lost until all has been
    written. Then `report` is called in the thread, with the number of lines.

    Attributes:
        lost_lines: how many lines were lost since the start.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, report: Callable[[int], None]) -> None:
        self.lost_lines = 0
        self._descriptor = descriptor
        self._report = report
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._unreported_lines = 0
        # Its lock is reentrant: a warning of the garbage collector may come while the lock is held.
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue the text, or count its lines as lost."""
        data = text.encode(self.encoding, self.errors)
        with self._changed:
            if self._unreported_lines or self._queued_bytes + len(data) > _MAX_QUEUED_BYTES:
                self._unreported_lines += text.count("\n")
                self.lost_lines += text.count("\n")
            else:
                self._queue.append(data)
                if not self._queued_bytes:
                    self._changed.notify_all()
                self._queued_bytes += len(data)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor that the thread writes to."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether a person sees the lines at once."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def drain(self, timeout: float = _LAST_WRITES_TIMEOUT_S) -> bool:
        """Wait up to `timeout` seconds until all lines are written. Return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queued_bytes, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                data = self._queue.popleft()
                while self._queue and len(data) + len(self._queue[0]) <= _MAX_WRITE_BYTES:
                    data += self._queue.popleft()
            self._write(data)
            lost = 0
            with self._changed:
                self._queued_bytes -= len(data)
                if not self._queue:
                    lost, self._unreported_lines = self._unreported_lines, 0
                self._changed.notify_all()
                is_empty = not self._queue
            if lost:
                self._report(lost)
            elif is_empty:
                _sleep(_GATHER_S)

    def _write(self, data: bytes) -> None:
        """Write all of it, however long that takes."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Another process that shares the descriptor has made it nonblocking.
                select.select([], [self._descriptor], [], _RETRY_INTERVAL_S)
            except OSError:
                # The disk is full, or the reader has gone.
                _sleep(_RETRY_INTERVAL_S)


def _sleep(seconds: float) -> None:
    """Wait by select(2), which takes an interval.

    `time.sleep` waits until a moment, and fails under
    libfaketime.
    """
    select.select([], [], [], seconds)


def write_in_background(report: Callable[[int], None]) -> None:
    """Replace `sys.stderr` by a `BackgroundStream`, unless it is no file of the system."""
    try:
        descriptor = sys.stderr.fileno()
    except io.UnsupportedOperation:
        return
    stream = BackgroundStream(descriptor, report)
    sys.stderr = stream
    atexit.register(stream.drain)


def lost_lines() -> int:
    """Return how many lines could not be written since the start."""
    return sys.stderr.lost_lines if isinstance(sys.stderr, BackgroundStream) else 0


def is_journal() -> bool:
    """Return whether stderr leads to the journal, as systemd tells its services in ``JOURNAL_STREAM`` (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(level: str, text: str) -> str:
    """Return the text with ``<N>`` before each line if stderr leads to the journal (sd-daemon(3)), else unchanged.

    `level` is a name of Python's `logging` in small letters.
    """
    if not is_journal():
        return text
    return "\n".join(f"<{_PRIORITIES[level]}>{line}" for line in text.split("\n"))
