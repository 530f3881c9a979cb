"""A real PgBouncer before a test's database. https://www.pgbouncer.org/config.html"""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from listener.demo.binaries import server_account
from tests.support import wait_until
from tests.support.program import find_program


class PgBouncer:
    """Runs while entered. `url` is the same database as the given one, through it; `size`, its server sessions at most.

    `stop` and `start` as often as wanted, at the same port.
    """

    def __init__(self, url: str, mode: Literal["transaction", "session"] = "transaction", size: int = 8) -> None:
        program = find_program("pgbouncer")
        assert program, "PgBouncer is missing: apt-get install pgbouncer (it need not run as a service)"
        self._program = program
        self._server = conninfo_to_dict(url)
        self._parts = urlsplit(url)
        self.size = size
        self._mode = mode
        self._port = 0
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._parts._replace(netloc=f"anybody@127.0.0.1:{self._port}").geturl()

    def sessions(self) -> list[psycopg.Connection[TupleRow]]:
        """A connection to every session that it may have with the server: each in a transaction, so that it stays there."""
        connections = [psycopg.connect(self.url, prepare_threshold=None) for _ in range(self.size)]
        for conn in connections:
            conn.execute("SELECT 1")
        return connections

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        if not self._port:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                self._port = sock.getsockname()[1]
        # It does not run as root either.
        account = server_account()
        config = self._folder / "pgbouncer.ini"
        config.write_text(self._configuration())
        for path in (self._folder, config):
            account.give(path)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, config], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **account.popen
            )
        try:
            wait_until(self._answers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            # SIGINT and SIGTERM wait for the clients; this is "immediate shutdown".
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        said = (self._folder / "log").read_text(errors="replace")
        assert self._process.poll() is None, f"PgBouncer ended: {said}"
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _configuration(self) -> str:
        given: dict[str, Any] = {"host": "127.0.0.1", "port": 5432, "password": "", **self._server}
        server = " ".join(f"{key}='{given[key]}'" for key in ("host", "port", "user", "password", "dbname"))
        return (
            f"[databases]\n{self._parts.path.removeprefix('/')} = {server}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {self._mode}\ndefault_pool_size = {self.size}\nmax_client_conn = 200\n"
        )
