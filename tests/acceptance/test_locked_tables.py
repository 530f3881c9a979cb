"""A table that somebody locks holds up the rules that read it, and no other."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from psycopg import sql

from tests.support import PATIENCE, repeats, wait_until
from tests.support.backlog import states, wait_sent
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.several_rules import configure, count_by_rule
from tests.support.web import ANY_PORT, Client

# One lookup waits for up to 30 s. If these waited for it, they would take far longer than a test may.
CHANGES = 20


@contextmanager
def locked(database: Database, *tables: str) -> Iterator[None]:
    """Hold the tables as a migration does."""
    with database.connect() as migration:
        migration.execute("BEGIN")
        for table in tables:
            migration.execute(sql.SQL("LOCK TABLE public.{} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        yield
        migration.execute("ROLLBACK")


def change(database: Database, table: str, key: int) -> None:
    database.execute(sql.SQL("INSERT INTO public.{} VALUES (%s, 'VE')").format(sql.Identifier(table)), (key,))


def capture(database: Database, rules: Iterable[str]) -> None:
    """Capture two events of each rule, as if the row had changed just before somebody locked its table."""
    for rule in rules:
        for key in (1, 2):
            database.execute("INSERT INTO pgherald.outbox (rule, key) VALUES (%s, %s)", (rule, str(key)))
    database.execute("NOTIFY pgherald")


def arrive(database: Database, mail: MailServer, keys: range) -> None:
    """Change one row after another of a table that is not locked, and wait for each email."""
    end = time.monotonic() + PATIENCE
    for key in keys:
        change(database, "free", key)
        wait_until(lambda key=key: f"free.{key}@example.org" in mail.recipients, end - time.monotonic())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "together", "started", "env"),
    [
        repeats(1, True, True, {}),
        (12, True, True, {}),
        (2, True, False, {}),
        repeats(12, False, True, {}),
        repeats(12, False, False, {}),
        repeats(1, True, True, {"PGHERALD_SMTP_RATE": "20"}),
        repeats(12, False, True, {"PGHERALD_SMTP_RATE": "20"}),
    ],
)
def test_the_other_rules_go_on(
    database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    number: int,
    together: bool,
    started: bool,
    env: dict[str, str],
) -> None:
    """The events of the locked rules wait, use no attempt, and go out when the lock is gone.

    `started`: before the tables are locked. Otherwise their rules cannot be checked at the start.
    """
    stuck = [f"stuck{n}" for n in range(number)]
    tables = dict.fromkeys(stuck, "stuck") if together else {rule: rule for rule in stuck}
    configure(database, pgherald, {**dict.fromkeys(stuck, 1), "free": 1}, tables=tables, rows=True)
    with database.connect() as unseen:
        unseen.execute("SET session_replication_role = replica")
        for table in set(tables.values()):
            unseen.execute(sql.SQL("INSERT INTO public.{} VALUES (1, 'VE'), (2, 'VE')").format(sql.Identifier(table)))
    with ExitStack() as running:
        lock = ExitStack()
        if not started:
            lock.enter_context(locked(database, *set(tables.values())))
        daemon = running.enter_context(pgherald.daemon(env={**env, **ANY_PORT}))
        if started:
            lock.enter_context(locked(database, *set(tables.values())))
        capture(database, stuck)
        arrive(database, mail, range(1, CHANGES + 1))
        assert count_by_rule(mail) == {"free": CHANGES}
        wait_until(lambda: "its lookup has been running for" in ready(daemon)["rules"]["detail"])
        assert all(part["ok"] for part in ready(daemon).values())
        lock.close()
        wait_sent(database, CHANGES + 2 * number)
        wait_until(lambda: ready(daemon)["rules"]["detail"] == "no rule is suspended")
    assert count_by_rule(mail) == {"free": CHANGES, **dict.fromkeys(stuck, 2)}
    assert database.execute("SELECT DISTINCT attempt FROM pgherald.outbox") == [(1,)]


def ready(daemon: Daemon) -> dict[str, Any]:
    parts: dict[str, Any] = Client(daemon).get("/readyz").json()["parts"]
    return parts


@pytest.mark.slow
def test_a_lock_that_outlasts_a_lookup(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """The daemon says that it delivers nothing if its only rule waits. The events are released, and tried again."""
    configure(database, pgherald, {"stuck": 1}, rows=True)
    change(database, "stuck", 1)
    with locked(database, "stuck"), pgherald.daemon(env=ANY_PORT) as daemon:
        daemon.wait_event("rule_unchecked", rule="stuck")
        # Before its first claim it is not ready either.
        wait_until(lambda: ready(daemon)["claims"] if "last claimed" in ready(daemon)["claims"]["detail"] else None)
        wait_until(lambda: not ready(daemon)["claims"]["ok"])
        assert Client(daemon).get("/readyz").status == 503
        daemon.wait_event("lookup_timed_out", rule="stuck")
        wait_until(lambda: database.value("SELECT jsonb_array_length(history) FROM pgherald.outbox") >= 3)
    assert states(database) == {"available": 1}
    with pgherald.daemon(env=ANY_PORT) as daemon:
        wait_sent(database, 1)
        wait_until(lambda: Client(daemon).get("/readyz").status == 200)
    assert database.value("SELECT attempt FROM pgherald.outbox") == 1


@pytest.mark.slow
def test_run_once_ends_while_a_table_is_locked(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    configure(database, pgherald, {"stuck": 1, "free": 1}, rows=True)
    change(database, "stuck", 1)
    change(database, "free", 1)
    with locked(database, "stuck"):
        done = pgherald("run", "--once", timeout=120)
    assert done.returncode == 1
    assert (
        "the lookup of rule stuck cannot run: canceling statement due to lock timeout" in done.stderr.splitlines()[-1]
    )
    assert count_by_rule(mail) == {"free": 1}
    assert states(database) == {"sent": 1, "available": 1}


@pytest.mark.slow
def test_a_daemon_stops_while_a_table_is_locked(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    configure(database, pgherald, {"stuck": 1}, rows=True)
    with pgherald.daemon() as daemon, database.connect() as migration:
        migration.execute("BEGIN; LOCK TABLE public.stuck IN ACCESS EXCLUSIVE MODE")
        capture(database, ["stuck"])
        wait_until(lambda: states(database) == {"claimed": 2})
        assert daemon.stop() == 0
        assert not any(event["event"] == "shutdown_timeout" for event in daemon.events)
        assert states(database) == {"available": 2}
        migration.execute("ROLLBACK")
