"""Move the watched database to another server by logical replication, as a major upgrade without downtime does."""

import asyncio
import subprocess
import time

import psycopg

from listener.demo.cluster import Cluster
from tests.chaos.soak.stage import WATCHED, SoakStage
from tests.chaos.soak.tables import ROLES_SQL

_TIMEOUT_S = 120.0
_STEP_S = 0.1
# A dump of the schema names these roles, and leaves them to the administrator.
_OUR_ROLES_SQL = """
    CREATE ROLE pgherald_owner NOLOGIN;
    CREATE ROLE pgherald_daemon NOLOGIN;
    CREATE ROLE pgherald_backup NOLOGIN;
    GRANT pgherald_daemon TO herald;
"""


async def replicate(stage: SoakStage, target: Cluster) -> None:
    """Copy schema and rows to the other server, and keep them up to date."""
    for statement in (ROLES_SQL + _OUR_ROLES_SQL, f"CREATE DATABASE {WATCHED} OWNER administrator"):
        await _execute(target.dsn(), statement)
    await asyncio.to_thread(_copy_schema, stage.cluster, target)
    await stage.execute("CREATE PUBLICATION soak FOR ALL TABLES")
    await _execute(
        target.dsn(WATCHED), f"CREATE SUBSCRIPTION soak CONNECTION '{stage.cluster.dsn(WATCHED)}' PUBLICATION soak"
    )
    await _until(target.dsn(WATCHED), "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'")


async def switch(stage: SoakStage, target: Cluster) -> None:
    """Let everybody use the other server, where pgherald is installed again. Nobody may be writing, and no daemon run."""
    source = stage.cluster.dsn(WATCHED)
    async with await psycopg.AsyncConnection.connect(source) as conn:
        [lsn] = await (await conn.execute("SELECT pg_current_wal_lsn()::text")).fetchone() or [""]
    await _until(source, f"SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'soak'")
    await _execute(target.dsn(WATCHED), "DROP SUBSCRIPTION soak")
    stage.base.cluster = target
    stage.base.dsn = target.dsn(WATCHED)
    await stage.pgherald("install", "--create-roles")


def _copy_schema(source: Cluster, target: Cluster) -> None:
    dump = subprocess.run(
        [str(source.binaries / "pg_dump"), "--schema-only", "--dbname", source.dsn(WATCHED)],
        capture_output=True,
        check=True,
    )
    psql = [str(target.psql), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", target.dsn(WATCHED)]
    subprocess.run(psql, input=dump.stdout, stdout=subprocess.DEVNULL, check=True)


async def _execute(dsn: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute(statement)


async def _until(dsn: str, query: str) -> None:
    """Wait until the query returns true."""
    end = time.monotonic() + _TIMEOUT_S
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        while await (await conn.execute(query)).fetchone() != (True,):
            assert time.monotonic() < end, f"not within {_TIMEOUT_S:g} s: {query}"
            await asyncio.sleep(_STEP_S)
