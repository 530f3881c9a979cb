"""Rows and events that are loaded, truncated or deleted behind pgherald's back, and the remedies of docs/migrations.md."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.programs import Programs
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
RESTART = "TRUNCATE public.dateplan, public.users, public.plan RESTART IDENTITY"


def captured(pgherald: Pgherald, *options: str) -> str:
    return pgherald("backfill", RULE, *options, check=True).stdout.partition("\n")[0]


@pytest.fixture
def sent(database: Database, mail: MailServer, pgherald: Pgherald) -> int:
    """A row whose email was sent."""
    plan = database.add_plan("Café", "jane@example.org")
    database.verify(plan)
    pgherald("run", "--once", check=True)
    mail.wait_for(1)
    return plan


@pytest.mark.slow
def test_events_deleted_by_hand_are_not_sent_again(
    database: Database, mail: MailServer, pgherald: Pgherald, sent: int
) -> None:
    database.execute("DELETE FROM pgherald.outbox")
    assert captured(pgherald) == "0 rows captured"
    assert "purged" in pgherald("explain", RULE, sent, check=True).stdout
    # The next change is news.
    database.execute("UPDATE public.dateplan SET status = 'PE'")
    database.verify(sent)
    pgherald("run", "--once", check=True)
    mail.wait_for(2)


def test_a_row_from_before_the_rule_counts_as_sent(database: Database, pgherald: Pgherald, sent: int) -> None:
    """Its event was captured by a transaction that was open while `install` recorded the existing rows."""
    database.execute(
        "INSERT INTO pgherald.handled VALUES (%s, %s, 'existing', now() + interval '1 s')", (RULE, str(sent))
    )
    database.execute("DELETE FROM pgherald.outbox")
    assert captured(pgherald, "--include-existing", "--dry-run") == "0 rows would be captured"


def test_an_event_that_waits_is_found_again_after_it_was_deleted(database: Database, pgherald: Pgherald) -> None:
    database.verify(database.add_plan("Café", "jane@example.org"))
    database.execute("DELETE FROM pgherald.outbox")
    assert captured(pgherald) == "1 row captured"


def test_a_role_that_may_only_delete(database: Database, sent: int) -> None:
    name = f"cleaner_{os.getpid()}"
    who = sql.Identifier(name)
    database.execute(sql.SQL("CREATE ROLE {}").format(who))
    try:
        with database.connect() as conn:
            conn.execute(sql.SQL("GRANT USAGE ON SCHEMA pgherald TO {}").format(who))
            conn.execute(sql.SQL("GRANT SELECT, DELETE ON pgherald.outbox TO {}").format(who))
            conn.execute(sql.SQL("SET ROLE {}").format(who))
            conn.execute("DELETE FROM pgherald.outbox WHERE settled_at < now()")
        assert database.execute("SELECT key, why FROM pgherald.handled") == [(str(sent), "purged")]
    finally:
        database.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(who))


@pytest.mark.slow
def test_truncate_restart_identity(database: Database, mail: MailServer, pgherald: Pgherald, sent: int) -> None:
    """Capture is not concerned: a new row with an old key is news. Only `backfill` takes it for the old row."""
    database.execute(RESTART)
    again = database.add_plan("Bar", "john@example.org")
    assert again == sent
    database.verify(again)
    pgherald("run", "--once", check=True)
    mail.wait_for(2)
    database.execute(RESTART)
    with database.connect() as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("SELECT 1")
        database.add_plan("Bar", "ann@example.org")
        conn.execute("UPDATE public.dateplan SET status = 'VE'")
    assert captured(pgherald, "--dry-run") == "0 rows would be captured"
    # The remedy: forget what is known of the old rows. The order matters, because deleted events are remembered.
    database.execute(
        """DELETE FROM pgherald.outbox WHERE rule = 'dateplan_verified' AND settled_at IS NOT NULL;
           DELETE FROM pgherald.handled WHERE rule = 'dateplan_verified'"""
    )
    assert captured(pgherald) == "1 row captured"
    pgherald("run", "--once", check=True)
    mail.wait_for(3)


@pytest.fixture
def reload(database: Database, programs: Programs, sent: int, tmp_path: Path) -> Path:
    """A dump of the application's rows. The tables are empty now, as a reload finds them."""
    (tmp_path / "rows.sql").write_text(
        programs.data(database, "-N", "pgherald", "--disable-triggers").replace("SET transaction_timeout = 0;", "")
    )
    (tmp_path / "plain.sql").write_text(
        programs.data(database, "-N", "pgherald").replace("SET transaction_timeout = 0;", "")
    )
    database.execute("TRUNCATE public.dateplan, public.users, public.plan")
    return tmp_path


def load(programs: Programs, database: Database, file: Path, options: str = "") -> None:
    done: subprocess.CompletedProcess[str] = programs.psql(
        database, "-q", "-v", "ON_ERROR_STOP=1", "-f", file, options=options
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_reload_is_captured(
    database: Database, mail: MailServer, pgherald: Pgherald, programs: Programs, reload: Path
) -> None:
    """COPY fires triggers. A pause delays these events, and `events discard` drops them."""
    pgherald("pause", RULE, check=True)
    load(programs, database, reload / "plain.sql")
    pgherald("run", "--once", check=True)
    assert [event["state"] for event in database.events()] == ["sent", "available"]
    pgherald("events", "discard", RULE, "--state", "available", "--yes", check=True)
    pgherald("resume", RULE, check=True)
    pgherald("run", "--once", check=True)
    assert len(mail.messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "options"),
    [("rows.sql", ""), repeats("plain.sql", "-c session_replication_role=replica")],
    ids=["--disable-triggers", "session_replication_role"],
)
def test_a_reload_without_triggers(
    database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    programs: Programs,
    reload: Path,
    file: str,
    options: str,
) -> None:
    # A row that has the value and that pgherald has never seen: it is marked, so that backfill leaves it out.
    database.execute("DELETE FROM pgherald.outbox")
    database.execute("DELETE FROM pgherald.handled")
    load(programs, database, reload / file, options)
    assert database.events() == []
    assert captured(pgherald, "--mark-only") == "1 row marked as handled"
    assert captured(pgherald) == "0 rows captured"
    pgherald("run", "--once", check=True)
    assert len(mail.messages) == 1


def test_a_reload_by_the_tables_owner(
    database: Database, mail: MailServer, pgherald: Pgherald, programs: Programs, reload: Path
) -> None:
    """Without a superuser, the owner disables the triggers. Others' changes are missed meanwhile, so it is one transaction."""
    text = (reload / "plain.sql").read_text()
    (reload / "owner.sql").write_text(
        f"BEGIN;\nALTER TABLE public.dateplan DISABLE TRIGGER USER;\n{text}\n"
        "ALTER TABLE public.dateplan ENABLE TRIGGER USER;\nCOMMIT;\n"
    )
    load(programs, database, reload / "owner.sql")
    assert [event["state"] for event in database.events()] == ["sent"]
    with psycopg.connect(database.url) as conn:
        enabled = conn.execute(
            "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgrelid = 'public.dateplan'::regclass"
        ).fetchall()
    assert enabled == [("O",)]
