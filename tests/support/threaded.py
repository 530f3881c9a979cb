"""A server of a test in threads of its own: one for each client."""

import socketserver
import threading
from typing import Self


class ThreadedServer:
    """Runs while entered, at `address`, a free port of loopback."""

    def __init__(self, name: str, handler: type[socketserver.BaseRequestHandler]) -> None:
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=name, daemon=True)

    @property
    def address(self) -> str:
        """Return the address in the form of Postfix's settings."""
        return f"inet:127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    # A client that stays, as Postfix does, must not keep the test from ending.
    daemon_threads = True
    block_on_close = False
