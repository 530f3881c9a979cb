"""A service manager's ear: the datagram socket that NOTIFY_SOCKET names."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import PATIENCE


@dataclass
class Manager:
    sock: socket.socket
    path: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    def told(self, timeout: float) -> list[str]:
        """The lines of the next datagram."""
        self.sock.settimeout(timeout)
        return self.sock.recv(65536).decode().splitlines()

    def wait_told(self, line: str, timeout: float = PATIENCE) -> list[str]:
        """The lines of the first datagram from now on in which `line` stands."""
        end = time.monotonic() + timeout
        while line not in (lines := self.told(max(0.01, end - time.monotonic()))):
            pass
        return lines

    def silent(self, seconds: float) -> bool:
        """Return whether no message comes for `seconds`."""
        try:
            self.told(seconds)
        except TimeoutError:
            return True
        return False

    def forget(self) -> None:
        """Return the messages so far, without waiting."""
        self.sock.setblocking(False)
        try:
            while True:
                self.sock.recv(65536)
        except BlockingIOError:
            pass


@contextmanager
def service_manager(folder: Path) -> Iterator[Manager]:
    path = folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        yield Manager(sock, path)
