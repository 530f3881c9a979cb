"""What the service manager is told: ready, reloading, stopping, and that the work goes on.

A datagram to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)); without one, nothing. systemd ends and restarts a
service that has not sent ``WATCHDOG=1`` for as long as ``WATCHDOG_USEC`` says (sd_watchdog_enabled(3)).
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from listener.printable import printable


class Systemd:
    """Whoever started this process and waits to hear of it. It may be nobody, or have gone: nothing fails by it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is how the abstract namespace is written.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self._patience = int(microseconds) / 1e6 if meant and microseconds.isdigit() else 0.0

    def waiting(self, status: str) -> None:
        """Not ready yet, and why."""
        self._notify(f"STATUS={status}")

    def ready(self, status: str) -> None:
        """At the start, and at the end of a reload."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reading the configuration again")

    def stopping(self) -> None:
        self._notify("STOPPING=1", "STATUS=bringing what is on the wire to its end")

    async def watch(self, turns: Callable[[float], bool]) -> None:
        """Ping while ``turns(seconds)`` says that the work went on within these seconds. Until cancelled."""
        if not self._address or not self._patience:
            return
        while True:
            if turns(self._patience):
                self._notify("WATCHDOG=1")
            await asyncio.sleep(self._patience / 4)

    def _notify(self, *lines: str) -> None:
        if self._address:
            # `systemctl status` shows it as it is.
            datagram = "\n".join(printable(" ".join(line.split())) for line in lines)
            # A manager that does not read must not hold up the work.
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(datagram.encode(), self._address)
