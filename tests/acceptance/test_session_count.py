"""A daemon has no more sessions than docs/dba.md says, whatever its statements wait for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from psycopg import sql

from listener.db.pools import MAX_SESSIONS
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.network import Network
from tests.support.web import ANY_PORT, Client

OURS = "FROM pg_stat_activity WHERE application_name = 'pgherald' AND datname = current_database()"
ENV = {"PGHERALD_DELIVERY_POLL": "60s", "PGHERALD_DELIVERY_LEASE": "5s", "PGHERALD_SMTP_RATE": "100"}
# Without the limits, each pool loses a connection every five seconds and leaves its backend behind.
LONG_S = 40.0
SHORT_S = 12.0
# docs/dba.md, Connections: one more for a moment, and with `http.listen` two for the page and requests to unsubscribe.
MOMENT = 1
PAGE = 2
# A network that resets connections leaves backends behind until they look for their client, once a second.
TABLES = ["pgherald.outbox", "pgherald.worker", "pgherald.rule", "pgherald.rate_limit", "pgherald.event_stats"]
LOOKED_UP = "public.dateplan"


def most_sessions(database: Database, seconds: float, each_second: Callable[[], object] = lambda: None) -> int:
    """Return the most sessions that the server showed at one moment."""
    most, end, turn = 0, time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        most = max(most, database.value(f"SELECT count(*) {OURS}"))
        if time.monotonic() > turn:
            each_second()
            turn += 1
        time.sleep(0.1)
    print(f"at most {most} sessions")
    return most


@contextmanager
def locked(database: Database, *tables: str) -> Iterator[None]:
    """Hold the tables as VACUUM FULL, ALTER TABLE or a migration tool does."""
    with database.connect() as migration:
        migration.execute("BEGIN")
        names = [sql.Identifier(*table.split(".")) for table in tables]
        migration.execute(sql.SQL("LOCK {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(names)))
        yield
        migration.execute("ROLLBACK")


@contextmanager
def looking(client: Client) -> Iterator[None]:
    """Read the metrics again and again, which ask the database."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            client.get("/metrics")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tables",
    [[*TABLES, LOOKED_UP], *([table] for table in [*TABLES, LOOKED_UP])],
)
def test_locks_gather_no_sessions(database: Database, mail: MailServer, pgherald: Pgherald, tables: list[str]) -> None:
    before, during = (database.add_plan("Café", f"{name}@example.org") for name in ("before", "during"))
    with pgherald.daemon(env={**ENV, **ANY_PORT}) as daemon, looking(Client(daemon)):
        with locked(database, *tables):
            if LOOKED_UP not in tables and "pgherald.outbox" not in tables:
                database.verify(before)
            assert most_sessions(database, LONG_S) <= MAX_SESSIONS + PAGE + MOMENT
        database.verify(before, during)
        mail.wait_for(2)


@pytest.mark.slow
def test_a_silent_network_gathers_no_sessions(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café", "a@example.org")
    with Network(database.url) as network, pgherald.daemon(env={**ENV, "PGHERALD_DATABASE_URL": network.url}):
        with locked(database, "pgherald.outbox"):
            network.cut()
            assert most_sessions(database, LONG_S) <= MAX_SESSIONS + MOMENT
        network.heal()
        database.verify(plan)
        mail.wait_for(1)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [SHORT_S, repeats(LONG_S)])
def test_a_network_that_cuts_connections_gathers_no_sessions(
    database: Database, mail: MailServer, pgherald: Pgherald, seconds: float
) -> None:
    """Each cut leaves the backends that wait for the lock, until they find that their client is gone."""
    plan = database.add_plan("Café", "a@example.org")
    with Network(database.url) as network, pgherald.daemon(env={**ENV, "PGHERALD_DATABASE_URL": network.url}):
        with locked(database, *TABLES):
            assert most_sessions(database, seconds, network.reset) <= 2 * MAX_SESSIONS
        database.verify(plan)
        mail.wait_for(1)
