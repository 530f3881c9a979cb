"""One server for all processes of a run."""

import secrets
import threading
from contextlib import ExitStack
from multiprocessing.connection import Client, Listener
from typing import Any

from tests.support.database import Databases, running_server

_HOST = "127.0.0.1"


class RunServer:
    """Belongs to the process that outlives all others, and is started when a test first needs it, if any does.

    xdist's workers cannot start it: whichever ended first would take it away from the rest. So they ask for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._databases: Databases | None = None
        self._listener: Listener | None = None
        self._key = secrets.token_bytes(16)

    def databases(self) -> Databases:
        with self._lock:
            if self._databases is None:
                databases = Databases(self._stack.enter_context(running_server()))
                self._stack.enter_context(databases)
                self._stack.callback(databases.drop_all)
                self._databases = databases
            return self._databases

    def desk(self) -> tuple[int, bytes]:
        """Where other processes ask."""
        if self._listener is None:
            self._listener = Listener((_HOST, 0), authkey=self._key)
            threading.Thread(target=self._answer, args=(self._listener,), name="server desk", daemon=True).start()
        return self._listener.address[1], self._key

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        with self._lock:
            self._stack.close()

    def _answer(self, listener: Listener) -> None:
        while True:
            try:
                with listener.accept() as conn:
                    try:
                        databases = self.databases()
                        conn.send((databases.url, databases.run))
                    except Exception as exc:
                        conn.send(f"{type(exc).__name__}: {exc}")
            except OSError:
                return


def ask(desk: Any) -> Databases:
    port, key = desk
    with Client((_HOST, port), authkey=key) as conn:
        answer = conn.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"the run's server did not start: {answer}")
    return Databases(*answer)
