"""One story database for a whole module's tests where a copy for each would cost more than the test; PostgreSQL's programs."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener.demo.binaries import embedded_binaries
from listener.errors import PgheraldError
from tests.sql.claimant import Claimant
from tests.support.database import Database, Databases


@pytest.fixture(scope="session")
def _shared(databases: Databases, story_template: str) -> Iterator[Database]:
    with databases.fresh(story_template) as database:
        yield database


@pytest.fixture
def sandbox(_shared: Database) -> Iterator[Database]:
    """As `database`, but used again: tables are empty, and what the test puts into schema `app` goes after it."""
    _shared.execute("CREATE SCHEMA app")
    yield _shared
    _shared.close()
    _shared.execute("SELECT pgherald.unwatch(rule) FROM pgherald.rule WHERE rule <> 'dateplan_verified'")
    with _shared.connect(options="-c client_min_messages=warning") as conn:
        conn.execute("DROP SCHEMA app CASCADE; TRUNCATE public.users, public.plan, public.dateplan RESTART IDENTITY")
        conn.execute("TRUNCATE pgherald.outbox, pgherald.worker, pgherald.handled")


@pytest.fixture
def claimant(sandbox: Database) -> Callable[..., Claimant]:
    """``claimant()`` is a registered worker in a session of its own."""

    def register(name: str = "worker", **options: Any) -> Claimant:
        return Claimant(sandbox.connect(), name, **options)

    return register


@pytest.fixture
def role(databases: Databases, sandbox: Database) -> Iterator[str]:
    """An application's role: it may do everything in schema `app`, and nothing in `pgherald`."""
    name = f"{databases.run}_app_{os.getpid()}"
    who = sql.Identifier(name)
    with sandbox.connect() as conn:
        conn.execute(sql.SQL("CREATE ROLE {}").format(who))
        conn.execute(sql.SQL("GRANT ALL ON SCHEMA app TO {}").format(who))
        conn.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(sql.Identifier(conn.info.dbname), who))
    yield name
    sandbox.close()
    with sandbox.connect(options="-c client_min_messages=warning") as conn:
        conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(who))
        conn.execute(sql.SQL("DROP ROLE {}").format(who))


@pytest.fixture
def application(sandbox: Database, role: str) -> psycopg.Connection[Any]:
    """A session of that role."""
    conn = sandbox.connect()
    conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
    return conn


@dataclass(frozen=True)
class Programs:
    """psql and pg_dump, the dump's version not below the server's."""

    psql_program: Path
    dump_program: Path

    def psql(self, database: Database, *arguments: object, options: str = "") -> subprocess.CompletedProcess[str]:
        """`options`: the session's, as in ``-c lock_timeout=1s``."""
        return self._run(self.psql_program, "-X", "-d", database.url, *arguments, PGOPTIONS=options)

    def dump(self, database: Database, *arguments: object) -> str:
        """The schema, less what differs between two dumps of one, and between PostgreSQL's versions."""
        done = self._run(self.dump_program, "-s", "--no-owner", *arguments, database.url)
        assert done.returncode == 0, done.stderr
        noise = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")
        return "".join(line for line in done.stdout.splitlines(keepends=True) if line.strip() and not noise.match(line))

    def data(self, database: Database, *arguments: object) -> str:
        done = self._run(self.dump_program, "--data-only", *arguments, database.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def copy(self, source: Database, target: Database) -> None:
        """A dump, data and all, restored."""
        done = self._run(self.dump_program, "--no-owner", source.url)
        assert done.returncode == 0, done.stderr
        # Which a pg_dump of 17 or later sets for servers that don't know it.
        script = done.stdout.replace("SET transaction_timeout = 0;", "")
        restored = self._run(self.psql_program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.url, input=script)
        assert (restored.returncode, restored.stderr) == (0, "")

    @staticmethod
    def _run(
        program: Path, *arguments: object, input: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(
            [program, *map(str, arguments)], env={**outside, **environment}, input=input,
            capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="session")
def programs(databases: Databases) -> Programs:
    with psycopg.connect(databases.url) as conn:
        server = conn.info.server_version // 10000
    psql, dump = _newest("psql"), _newest("pg_dump")
    if psql is None or dump is None or dump[0] < server:
        pytest.skip(f"needs psql and a pg_dump of version {server} or later")
    return Programs(psql[1], dump[1])


def _newest(name: str) -> tuple[int, Path] | None:
    found = [Path(program)] if (program := shutil.which(name)) else []
    found += Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    with suppress(PgheraldError):
        found.append(embedded_binaries() / name)
    versions = []
    for program in found:
        if program.exists():
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            if version := re.search(r"\) (\d+)", said):
                versions.append((int(version[1]), program))
    return max(versions, default=None)
