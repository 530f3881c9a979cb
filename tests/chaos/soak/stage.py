"""The stage: a server with the watched database and its twin, a mail server, two daemons, and the persons around them."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo

from listener.demo.cluster import Cluster
from tests.chaos.catcher import Catcher
from tests.chaos.daemons import Daemon
from tests.chaos.soak.gaps import DaemonLogs, Gaps
from tests.chaos.soak.sessions import Record, Session
from tests.chaos.soak.tables import ROLES_SQL, Application, Table
from tests.chaos.stage import Options, Stage
from tests.chaos.writers import Ledger
from tests.support import wait_until_async
from tests.support.database import OPTIONS, chosen_binaries, free_port

WATCHED, TWIN = "application", "twin"
_ROOT = Path(__file__).parents[3]
_DAEMONS = 2
_START_S = 60.0
# As a careful migration: it waits briefly for its lock, lets the queue behind it pass, and tries again.
_LOCK_TIMEOUT = "2s"
_TRIES = 20
_RETRY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)


@dataclass
class SoakStage:
    """Everything that a schema change may use. `refused`: changes and commands that failed because of pgherald."""

    base: Stage
    twin: Cluster
    application: Application
    record: Record
    gaps: Gaps
    logs: DaemonLogs
    folder: Path
    chance: random.Random
    say: Callable[[str], None]
    refused: list[str] = field(default_factory=list)
    daemons: list[Daemon] = field(default_factory=list)
    other_label: str = "XX"
    labels_made: int = 0
    regions_made: int = 0

    @property
    def cluster(self) -> Cluster:
        return self.base.cluster

    def table(self, *names: str) -> Table:
        """Return one of these tables, or of all, at random."""
        return self.application.tables[self.chance.choice(names or list(self.application.tables))]

    def dsn(self, role: str, database: str = WATCHED) -> str:
        return make_conninfo(self.superuser_dsn(database), user=role, password=role, application_name=role)

    def superuser_dsn(self, database: str = WATCHED) -> str:
        return (self.twin if database == TWIN else self.cluster).dsn(database)

    def session(self, number: int, *, long: bool) -> Session:
        async def connect(database: str) -> psycopg.AsyncConnection[Any]:
            # Each statement is prepared at its first use, because cached plans are what a schema change can break.
            conn = await psycopg.AsyncConnection.connect(self.dsn("application", database), autocommit=True)
            conn.prepare_threshold = 0
            return conn

        chance = random.Random(f"{self.base.options.seed} session {number}")
        return Session([lambda: connect(WATCHED), lambda: connect(TWIN)], self.record, chance, long=long)

    async def alter(self, role: str, *statements: str) -> bool:
        """Run the statements as one transaction of this role, in both databases or in neither. Return whether it did.

        A change that succeeds in the twin alone is refused because of pgherald.
        """
        for _ in range(_TRIES):
            done = await self._alter(role, statements)
            if done is not None:
                return done
            await asyncio.sleep(self.chance.uniform(0.1, 0.5))
        self.say(f"no lock in {_TRIES} tries: {statements[0]}")
        return False

    async def _alter(self, role: str, statements: tuple[str, ...]) -> bool | None:
        """Try once. Return None if it is worth another try."""
        async with AsyncExitStack() as stack:
            pair = [
                await stack.enter_async_context(await psycopg.AsyncConnection.connect(self.dsn(role, database)))
                for database in (WATCHED, TWIN)
            ]
            here, there = await asyncio.gather(*(_execute(conn, statements) for conn in pair))
            if here is None and there is None:
                for conn in pair:
                    await conn.commit()
                return True
            for conn in pair:
                await conn.rollback()
        if isinstance(here, _RETRY) or isinstance(there, _RETRY):
            return None
        if there is not None:
            raise AssertionError(f"the harness's own change fails: {there}: {statements}")
        self.refuse(f"{here}")
        return False

    async def twin_only(self, statement: str) -> None:
        """Run in the twin what a command of pgherald has done in the watched database."""
        await self.execute(statement, role="app_owner", database=TWIN)

    async def execute(self, statement: str, *, role: str | None = None, database: str = WATCHED) -> None:
        """Run a statement in one database only: as this role, or as a superuser."""
        dsn = self.dsn(role, database) if role else self.superuser_dsn(database)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(statement)

    async def pgherald(self, *arguments: str) -> bool:
        """Run a command as the operator. A failure is recorded. Return whether it succeeded."""
        environment = _environment(self.cluster.dsn(WATCHED), self.base.catcher, self.folder)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "listener", *arguments, env=environment, cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            self.refuse(f"pgherald {' '.join(arguments)}: {output.decode(errors='replace').strip()[-500:]}")
        return process.returncode == 0

    async def rewatch(self, rule: str, alter: str | None = None) -> bool:
        """Give the rule's triggers back, with an ALTER TABLE in the same transaction if there is one.

        If that fails, the operator installs again, so that the run can go on.
        """
        done = await self.pgherald("rewatch", rule, *(["--alter", alter] if alter else []))
        if not done:
            await self.pgherald("install")
        return done

    async def start_daemons(self) -> None:
        """Start two new daemons at the watched database, and wait until they are ready."""
        first = len(self.daemons)
        for number, port in enumerate(self.gaps.ports, first):
            environment = _environment(self.dsn("herald"), self.base.catcher, self.folder) | {
                "PGHERALD_HTTP_LISTEN": f"127.0.0.1:{port}"
            }
            daemon = Daemon(number, environment, self.folder, None)
            self.daemons.append(daemon)
            await daemon.start()
        self.base.daemons[:] = self.daemons[first:]
        await wait_until_async(lambda: all(daemon.is_ready for daemon in self.base.daemons), _START_S)

    async def kill_daemons(self) -> None:
        for daemon in self.daemons:
            await daemon.kill()

    def refuse(self, what: str) -> None:
        lines = " ".join(what.split())
        self.refused.append(f"{self.record.change}: {lines}")
        self.say(f"refused: {lines}")

    def write_configuration(self) -> None:
        (self.folder / "pgherald.toml").write_text(self.application.configuration, encoding="utf-8")


async def _execute(conn: psycopg.AsyncConnection[Any], statements: tuple[str, ...]) -> psycopg.Error | None:
    try:
        await conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        for statement in statements:
            await conn.execute(statement)
    except psycopg.Error as error:
        return error
    return None


@asynccontextmanager
async def staged(seed: int, seconds: float, folder: Path, say: Callable[[str], None]) -> AsyncIterator[SoakStage]:
    """Yield the stage with its daemons ready. Their logs are in `folder`."""
    async with AsyncExitStack() as stack:
        cluster = new_cluster()
        stack.callback(cluster.close)
        await asyncio.to_thread(cluster.start)
        application = Application(icu=await _has_icu(cluster))
        ports = [free_port() for _ in range(_DAEMONS)]
        logs = DaemonLogs(folder)
        gaps = Gaps(logs, ports)
        ledgers = {name: _ledger(table) for name, table in application.tables.items()}
        catcher = Catcher(random.Random(f"{seed} catcher"), (0.0, 0.01))
        await stack.enter_async_context(catcher)
        options = Options(seed, seconds, _DAEMONS)
        base = Stage(options, cluster, cluster.dsn(WATCHED), catcher, [], [], Ledger())
        soak = SoakStage(
            base, cluster, application, Record(ledgers, gaps), gaps, logs, folder, random.Random(f"{seed} changes"), say
        )
        await _furnish(soak)
        stack.push_async_callback(soak.kill_daemons)
        await soak.start_daemons()
        yield soak


def new_cluster() -> Cluster:
    """Return a server that can be the source or the target of logical replication."""
    return Cluster(chosen_binaries(), {**OPTIONS, "wal_level": "logical"})


async def _has_icu(cluster: Cluster) -> bool:
    async with await psycopg.AsyncConnection.connect(cluster.dsn()) as conn:
        return bool((await conn.execute("SELECT FROM pg_collation WHERE collname = 'und-x-icu'")).rowcount)


def _ledger(table: Table) -> Ledger:
    ledger = Ledger()
    ledger.start_keys(table.first_key)
    return ledger


async def _furnish(soak: SoakStage) -> None:
    """Create roles and databases, and install pgherald in one of them."""
    await soak.execute(ROLES_SQL, database="postgres")
    for database in (WATCHED, TWIN):
        await soak.execute(f"CREATE DATABASE {database} OWNER administrator", database="postgres")
        await soak.execute(soak.application.schema, database=database)
    soak.write_configuration()
    if not await soak.pgherald("install", "--create-roles"):
        raise AssertionError(soak.refused[-1])
    await soak.execute("GRANT pgherald_daemon TO herald")


def _environment(dsn: str, catcher: Catcher, folder: Path) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGHERALD_"))}
    return {
        **outside,
        "PYTHONPATH": str(_ROOT),
        "PGHERALD_CONFIG": str(folder / "pgherald.toml"),
        "PGHERALD_DATABASE_URL": dsn,
        "PGHERALD_SMTP_URL": catcher.url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
        "PGHERALD_HTTP_LISTEN": "off",
        "PGHERALD_LOG_FORMAT": "json",
    }
