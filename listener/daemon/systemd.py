"""Tell the service manager that the daemon is ready, reloads, stops, and still makes progress.

Each message is a datagram to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)). Without that variable nothing is
sent. systemd restarts a service that has sent no ``WATCHDOG=1`` for ``WATCHDOG_USEC`` (sd_watchdog_enabled(3)).
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from listener.printable import printable

# A person who looks at `systemctl status` waits no longer for the truth than for a metric, which is read every 15 s or so.
_STATUS_INTERVAL_S = 5.0


class Systemd:
    """The service manager that started this process. There may be none, or it may have gone; no call fails then."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self._watchdog_s = int(microseconds) / 1e6 if is_for_us and microseconds.isdigit() else 0.0

    def waiting(self, status: str) -> None:
        """Say that the daemon is not ready yet, and why."""
        self._notify(f"STATUS={status}")

    def ready(self, status: str) -> None:
        """Say that the daemon is ready, at the start and at the end of a reload."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the daemon reads its configuration again. systemd wants the time of it (sd_notify(3))."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reading the configuration again")

    def stopping(self) -> None:
        """Say that the daemon has begun to stop."""
        self._notify("STOPPING=1", "STATUS=finishing messages that are being sent")

    async def watch(self, is_alive: Callable[[float], bool], status: Callable[[], str]) -> None:
        """Ping as long as ``is_alive(seconds)`` says that the loops ran within these seconds. Run until cancelled.

        Send also ``status()``, when it has changed.
        """
        if not self._address:
            return
        sent = status()
        while True:
            lines = ["WATCHDOG=1"] if self._watchdog_s and is_alive(self._watchdog_s) else []
            if (now := status()) != sent:
                lines.append(f"STATUS={now}")
                sent = now
            if lines:
                self._notify(*lines)
            await asyncio.sleep(min(self._watchdog_s / 4 or _STATUS_INTERVAL_S, _STATUS_INTERVAL_S))

    def _notify(self, *lines: str) -> None:
        if self._address:
            # `systemctl status` prints the text without escaping it.
            datagram = "\n".join(printable(" ".join(line.split())) for line in lines)
            # A service manager that does not read its socket must not block the daemon.
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(datagram.encode(), self._address)
