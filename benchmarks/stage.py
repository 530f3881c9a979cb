"""The server, its databases, the mail sinks and the daemons of a measurement."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from listener.demo.cluster import Cluster

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).parent / "pgherald"
RULE = "dateplan_verified"
# The trees whose schema and daemon are measured: this one and, where PGHERALD_BENCH_BEFORE names it, that of another version.
TREES = {"now": HERE.parent}
if _before := os.environ.get("PGHERALD_BENCH_BEFORE"):
    TREES["before"] = Path(_before)
# As a careful operator would set a small server; what is durable stays so.
OPTIONS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min", "max_connections": 200,
           "shared_preload_libraries": "pg_stat_statements"}  # fmt: skip

_TABLES = """
    CREATE TABLE public.users (id bigint PRIMARY KEY, email text NOT NULL, email_notifications_enabled boolean NOT NULL);
    CREATE TABLE public.plan (id bigint PRIMARY KEY, place text NOT NULL);
    CREATE TABLE public.dateplan (id bigint PRIMARY KEY, user_id bigint NOT NULL, plan_id bigint NOT NULL,
                                  status text NOT NULL DEFAULT 'PE', note text) WITH (fillfactor = 70);
    INSERT INTO public.users SELECT g, 'u' || g || '@bench.test', true FROM generate_series(1, {rows}) AS g;
    INSERT INTO public.plan SELECT g, 'Café No. ' || g FROM generate_series(1, 1000) AS g;
    INSERT INTO public.dateplan SELECT g, g, 1 + g % 1000 FROM generate_series(1, {rows}) AS g;
"""


def wait_until(found: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.005)
    raise TimeoutError(f"no {what} within {seconds:g} s")


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.conn = psycopg.connect(url, autocommit=True)

    def run(self, query: str, *values: object) -> list[Any]:
        cursor = self.conn.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def verify(self, first: int, last: int) -> None:
        self.run("UPDATE public.dateplan SET status = 'VE' WHERE id BETWEEN %s AND %s", first, last)

    def statements(self) -> int:
        """How many were run in this database."""
        return int(self._sums("calls")[0])

    def blocks(self) -> int:
        """How many blocks the statements of this database have read, from memory or from the disk."""
        return int(self._sums("shared_blks_hit + shared_blks_read")[0])

    def claims(self) -> tuple[float, float, float]:
        """How many claims there were, their milliseconds, and the rows of their answers."""
        # Without its name, which is a comment before it: those are cut off there.
        text = "%UPDATE pgherald.outbox%pg_current_snapshot()%"
        calls, spent, rows = self._sums("calls", "total_exec_time", "rows", like=text)
        return calls, spent, rows

    def _sums(self, *columns: str, like: str = "%") -> list[float]:
        """Sums over the statements of this database whose text is `like` that."""
        found = self.run(
            f"SELECT {', '.join(f'sum({column})' for column in columns)} FROM pg_stat_statements"
            " JOIN pg_database ON oid = dbid WHERE datname = current_database() AND query LIKE %s",
            like,
        )
        return [float(value or 0) for value in found[0]]


class Stage:
    """One server for a whole run. `PGHERALD_BENCH_BINARIES` names the folder of its programs, else it is the embedded one."""

    def __init__(self, rows: int) -> None:
        given = os.environ.get("PGHERALD_BENCH_BINARIES")
        self.rows = rows
        self.cluster = Cluster(Path(given) if given else None, OPTIONS)
        self._number = 0

    def __enter__(self) -> "Stage":
        self.cluster.start()
        self._template("bare", lambda db: None)
        for version, tree in TREES.items():
            triggers = (tree / "sql" / "triggers.sql").read_text()
            self._template(version, lambda db, triggers=triggers: install(db, triggers))
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()

    @property
    def server_pid(self) -> int:
        assert self.cluster.pid is not None
        return self.cluster.pid

    @property
    def pgbench(self) -> Path | None:
        beside = self.cluster.binaries / "pgbench"
        found = str(beside) if beside.exists() else shutil.which("pgbench")
        return Path(found) if found else None

    @contextmanager
    def database(self, template: str = "now") -> Iterator[Database]:
        """A copy of a template, written out, so that no later checkpoint disturbs."""
        self._number += 1
        name = f"run_{self._number}"
        self._admin(f'CREATE DATABASE {name} TEMPLATE "{template}"', "CHECKPOINT")
        database = Database(self.cluster.dsn(name))
        try:
            yield database
        finally:
            database.conn.close()
            self._admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _template(self, name: str, fill: Callable[[Database], object]) -> None:
        self._admin(f"CREATE DATABASE {name}")
        database = Database(self.cluster.dsn(name))
        database.conn.execute(_TABLES.format(rows=self.rows))
        database.conn.execute("CREATE EXTENSION pg_stat_statements")
        fill(database)
        database.conn.execute("VACUUM ANALYZE")
        database.conn.close()

    def _admin(self, *statements: str) -> None:
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)


def install(database: Database, triggers: str) -> None:
    """This triggers.sql with the shipped rule."""
    with database.conn.transaction():
        database.conn.execute(triggers.encode())
    database.run("SELECT pgherald.watch(%s, 'public.dateplan')", RULE)
    database.run("CALL pgherald.snapshot_existing(%s)", RULE)


def environment(version: str = "now", **settings: str) -> dict[str, str]:
    """This process' own, with these settings and no others of PostgreSQL or pgherald. Programs are those of the version."""
    own = {n: v for n, v in os.environ.items() if not n.startswith(("PG", "PGHERALD_"))}
    return own | {"PYTHONPATH": str(TREES[version])} | settings


class Sink:
    """Counts mails: Postfix' smtp-sink where installed, else `catch.py`, in Python and slower. `name` says which."""

    def __init__(self) -> None:
        program = shutil.which("smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin")
        self.port = _free_port()
        self.name = "smtp-sink" if program else "catch.py"
        self.samples: list[tuple[float, int]] = []
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = (
            [program, "-c", *user, "-m", "1000", f"127.0.0.1:{self.port}", "1024"]
            if program
            else [sys.executable, str(HERE / "catch.py"), str(self.port), "count"]
        )
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: _answers(self.port), 10, "mail sink")

    @property
    def count(self) -> int:
        return self.samples[-1][1] if self.samples else 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        tail = b""
        while data := os.read(self.process.stdout.fileno(), 65536):
            now = time.monotonic()
            tail = (tail + data)[-400:]
            if (found := re.findall(rb"mesg=(\d+)\r", tail)) and int(found[-1]) != self.count:
                self.samples.append((now, int(found[-1])))
            time.sleep(0.002)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class TimedSink(Sink):
    """`catch.py` with the time and the recipient of each mail, and a delay before each reply to a dot, in seconds."""

    def __init__(self, delay: float = 0.0) -> None:
        self.port = _free_port()
        self.name = "catch.py"
        self.arrived: dict[str, float] = {}
        self.total = 0
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "catch.py"), str(self.port), "times", str(delay)], stdout=subprocess.PIPE
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: _answers(self.port), 10, "mail sink")

    @property
    def count(self) -> int:
        return self.total

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            at, recipient = line.decode().split()
            self.arrived.setdefault(recipient, int(at) / 1e9)
            self.total += 1


class Daemon:
    """A running `pgherald run`, or, with `command`, another daemon that says `ready` when it is."""

    def __init__(self, url: str, port: int, *command: str, version: str = "now", **settings: str) -> None:
        self.log = Path(os.environ.get("TMPDIR", "/tmp")) / f"pgherald-bench-{os.getpid()}-{time.monotonic_ns()}.log"
        self.started = time.monotonic()
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                command or [str(PROGRAM), "run"],
                env=environment(
                    version,
                    PGHERALD_DATABASE_URL=url,
                    PGHERALD_SMTP_URL=f"smtp://127.0.0.1:{port}",
                    PGHERALD_MAIL_FROM="Bench <noreply@bench.test>",
                    PGHERALD_HTTP_LISTEN="off",
                    **settings,
                ),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        wait_until(lambda: "ready" in self.log.read_text() or self.process.poll() is not None, 20, "ready daemon")
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text()[-2000:])

    def warnings(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["level"] in ("warning", "error", "critical")]

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.unlink()


@contextmanager
def daemons(url: str, port: int, number: int, **settings: str) -> Iterator[list[Daemon]]:
    """So many `pgherald run`, each of them ready."""
    with ExitStack() as running:
        started = [running.enter_context(Daemon(url, port, **settings)) for _ in range(number)]
        for daemon in started:
            daemon.wait_ready()
        yield started


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
