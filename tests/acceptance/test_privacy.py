"""doctor names each role and log that can read addresses, messages or the secret, and its remedy works."""

import psycopg
import pytest
from psycopg import sql

from listener.demo.cluster import Cluster
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
ADDRESS = "somebody.special@example.org"


@pytest.fixture
def database(lone_database: Database) -> Database:
    return lone_database


@pytest.fixture
def mailer(database: Database, pgherald: Pgherald) -> str:
    """The daemon's role, and the URL by which it logs in."""
    database.execute("CREATE ROLE mailer LOGIN PASSWORD 'secret'")
    database.execute("GRANT SELECT ON public.dateplan, public.users, public.plan TO mailer")
    pgherald("install", "--grant-to", "mailer", check=True)
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    return psycopg.conninfo.make_conninfo(**{**parts, "user": "mailer", "password": "secret"})


def found(pgherald: Pgherald, check: str, **env: str) -> str:
    """The line that doctor gives for this check."""
    [line] = [line for line in pgherald("doctor", env=env).stdout.splitlines() if f" {check}: " in line]
    return line


@pytest.mark.slow
def test_row_security_on_the_outbox_is_refused_and_said(
    database: Database, mail: MailServer, pgherald: Pgherald, mailer: str
) -> None:
    """A platform's hardening switches it on. With policies applied, the daemon would see nothing, and say that nothing waits."""
    env = {"PGHERALD_DATABASE_URL": mailer}
    assert found(pgherald, "row security", **env).startswith("ok ")
    with pgherald.daemon(env=env) as daemon:
        database.execute("ALTER TABLE pgherald.outbox ENABLE ROW LEVEL SECURITY")
        database.verify(database.add_plan("Café", ADDRESS))
        waiting = daemon.wait_event("database_unavailable")
        assert "row-level security policy for table" in waiting["error"]
        line = found(pgherald, "row security", **env)
        assert line.startswith("fault ")
        assert "pgherald.outbox" in line
        status = pgherald("status", env=env)
        assert (status.returncode, status.stdout) == (1, "")
        assert 'row-level security policy for table "outbox"; see docs/dba.md, Row level security' in status.stderr
        _, _, remedy = line.partition(" -> ")
        assert remedy == "ALTER TABLE pgherald.outbox DISABLE ROW LEVEL SECURITY"
        database.execute(remedy)  # type: ignore[arg-type]
        mail.wait_for(1, timeout=30)


@pytest.mark.slow
def test_who_else_can_read_is_named(database: Database, pgherald: Pgherald, mailer: str) -> None:
    database.execute("CREATE ROLE reporting; CREATE ROLE analyst LOGIN IN ROLE reporting; CREATE ROLE stranger LOGIN")
    line = found(pgherald, "readers")
    assert line.startswith("ok "), line
    pgherald("uninstall", "--force", "--yes", check=True)
    # Default privileges are the cause: each new table comes with them.
    database.execute(
        """ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reporting; ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO reporting"""
    )
    pgherald("install", "--grant-to", "mailer", check=True)
    line = found(pgherald, "readers")
    assert line.startswith("warn ")
    assert "reporting can read pgherald.outbox and pgherald.secret" in line
    assert "analyst can read pgherald.outbox and pgherald.secret" in line
    assert "mailer" not in line
    assert "stranger" not in line
    for role in ("reporting", "analyst"):
        database.execute(
            sql.SQL(
                "REVOKE ALL ON ALL TABLES IN SCHEMA pgherald FROM {0}; REVOKE ALL ON SCHEMA pgherald FROM {0}"
            ).format(sql.Identifier(role))
        )
    assert found(pgherald, "readers").startswith("ok ")
    database.execute("GRANT pg_read_all_data TO stranger")
    line = found(pgherald, "readers")
    assert "stranger can read" in line
    assert line.endswith("-> REVOKE pg_read_all_data FROM stranger")
    database.execute("REVOKE pg_read_all_data FROM stranger")
    # A column is enough, and PUBLIC stands for all.
    database.execute("GRANT USAGE ON SCHEMA pgherald TO stranger; GRANT SELECT (value) ON pgherald.secret TO stranger")
    assert "stranger can read pgherald.secret" in found(pgherald, "readers")
    database.execute("GRANT SELECT ON pgherald.outbox TO PUBLIC")
    line = found(pgherald, "readers")
    assert "PUBLIC can read pgherald.outbox" in line
    assert "stranger can read pgherald.secret" in line


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        slow({"log_min_duration_statement": "0"}, "log_min_duration_statement = 0"),
        slow({"log_statement": "mod"}, "log_statement = mod"),
        slow({"log_statement": "all"}, "log_statement = all"),
        slow({"log_transaction_sample_rate": "1"}, "log_transaction_sample_rate = 1"),
        slow({"log_min_duration_sample": "0", "log_statement_sample_rate": "1"}, "log_min_duration_sample = 0"),
        slow({"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0"}, "auto_explain is on"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_servers_log_shows_no_address_where_doctor_says_so(
    database: Database,
    cluster: Cluster,
    mail: MailServer,
    pgherald: Pgherald,
    mailer: str,
    settings: dict[str, str],
    said: str,
) -> None:
    env = {"PGHERALD_DATABASE_URL": mailer}
    explains = "auto_explain" in said
    if explains and database.value("SELECT current_setting('server_version_num')::integer") < 160000:
        pytest.skip("before 16, auto_explain shows no parameters")
    assert found(pgherald, "server log", **env).startswith("ok ")
    for name, value in settings.items():
        database.execute(sql.SQL("ALTER ROLE mailer SET {} = {}").format(sql.SQL(name), sql.Literal(value)))  # type: ignore[arg-type]
    line = found(pgherald, "server log", **env)
    assert line.startswith("warn ")
    assert said in line
    deliver(database, mail, pgherald, env)
    assert ADDRESS in log_of(cluster), "what doctor warns of"
    _, _, remedy = line.partition(" -> ")
    statement, comma, _ = remedy.partition(", as a superuser")
    assert comma
    database.execute(statement)  # type: ignore[arg-type]
    assert found(pgherald, "server log", **env).startswith("ok ")
    cluster.log.write_text("")
    deliver(database, mail, pgherald, env)
    wait_until(lambda: "pgherald" in log_of(cluster))
    assert ADDRESS not in log_of(cluster)


def deliver(database: Database, mail: MailServer, pgherald: Pgherald, env: dict[str, str]) -> None:
    before = len(mail.messages)
    # By a session of another role, whose own statements are not looked at here.
    database.verify(database.add_plan("Café", ADDRESS))
    pgherald("run", "--once", env=env, check=True)
    mail.wait_for(before + 1)


def log_of(cluster: Cluster) -> str:
    return cluster.log.read_text(encoding="utf-8", errors="replace")
