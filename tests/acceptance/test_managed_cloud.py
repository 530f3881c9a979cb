"""Install as a managed cloud's administrator: a role with CREATEROLE that owns the database and is no superuser."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from listener.demo.cluster import Cluster
from tests.support.command import Pgherald
from tests.support.database import OPTIONS, STORY, chosen_binaries
from tests.support.mail import MailServer

GRANTS = """
    CREATE ROLE herald LOGIN PASSWORD 'secret' IN ROLE pgherald_daemon;
    GRANT USAGE ON SCHEMA public TO pgherald_daemon;
    GRANT SELECT ON public.dateplan, public.users, public.plan TO pgherald_daemon;
"""
ROWS = """
    INSERT INTO public.users VALUES (1, 'jane@example.org', true);
    INSERT INTO public.plan VALUES (1, 'Café');
    INSERT INTO public.dateplan VALUES (1, 1, 1, 'PE'), (2, 1, 1, 'VE');
"""


@pytest.fixture
def server() -> Iterator[Cluster]:
    """Yield a server of the test's own, because roles are the whole server's."""
    with Cluster(chosen_binaries(), OPTIONS) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
            conn.execute("CREATE ROLE other LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
        with psycopg.connect(at(cluster, "admin", "postgres"), autocommit=True) as conn:
            conn.execute("CREATE ROLE app LOGIN PASSWORD 'secret'")
        yield cluster


def at(server: Cluster, role: str, database: str) -> str:
    return f"postgresql://{role}:secret@127.0.0.1:{urlsplit(server.dsn()).port}/{database}"


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[call-overload]


@pytest.mark.parametrize("owner", ["admin", "app"])
def test_it_installs_twice_and_delivers(server: Cluster, mail: MailServer, pgherald: Pgherald, owner: str) -> None:
    database = f"of_{owner}"
    admin, app = at(server, "admin", database), at(server, "app", database)
    run(at(server, "admin", "postgres"), f"CREATE DATABASE {database}")
    run(admin, "GRANT CREATE ON SCHEMA public TO app")
    run(at(server, owner, database), STORY, ROWS)
    as_admin = {"PGHERALD_DATABASE_URL": admin}
    if owner == "app":
        refused = pgherald("install", "--create-roles", env=as_admin)
        assert refused.returncode == 1
        assert refused.stderr.endswith("; as an administrator: GRANT app TO admin\n")
        # docs/clouds.md: the one statement.
        run(admin, "GRANT app TO admin")
    else:
        run(admin, "GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
    for _ in range(2):
        done = pgherald("install", "--create-roles", env=as_admin, check=True)
        if "; GRANT pgherald_backup TO app; " in done.stderr:
            run(admin, "GRANT pgherald_backup TO app")
        else:
            assert done.stderr == ""
    run(admin, GRANTS)
    run(app, "UPDATE public.dateplan SET status = 'VE'")
    as_daemon = {"PGHERALD_DATABASE_URL": at(server, "herald", database)}
    pgherald("run", "--once", env=as_daemon, check=True)
    assert mail.recipients == ["jane@example.org"]
    checks = json.loads(pgherald("doctor", "--json", env=as_daemon, check=True).stdout)
    assert [check for check in checks if check["state"] == "fault"] == []
    with psycopg.connect(admin) as conn:
        owners = conn.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace"
        ).fetchall()
    assert owners == [("pgherald_owner",)]
    # docs/dba.md, Remove: the administrator drops what stays.
    done = pgherald("uninstall", "--yes", env=as_admin, check=True)
    assert "DROP OWNED BY pgherald_backup, pgherald_daemon, pgherald_owner; then: DROP ROLE" in done.stderr


def test_each_missing_right_is_named(server: Cluster, pgherald: Pgherald) -> None:
    for statement in ("CREATE DATABASE strict", "CREATE ROLE guest LOGIN PASSWORD 'secret'"):
        run(server.dsn(), statement)
    inside = server.dsn("strict")
    run(inside, "GRANT CREATE ON SCHEMA public TO app")
    run(at(server, "app", "strict"), STORY)
    as_guest, as_app, as_other = (
        {"PGHERALD_DATABASE_URL": at(server, role, "strict")} for role in ("guest", "app", "other")
    )

    def refusal(*command: str, env: dict[str, str]) -> str:
        refused = pgherald(*command, env=env)
        assert refused.returncode == 1
        return refused.stderr

    run(inside, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    assert refusal("install", env=as_guest) == (
        "Error: rule dateplan_verified: permission denied for schema public; "
        "as an administrator: GRANT CREATE ON DATABASE strict TO guest; GRANT app TO guest\n"
    )
    run(inside, "GRANT USAGE ON SCHEMA public TO PUBLIC")
    assert refusal("install", env=as_guest) == (
        "Error: triggers.sql: permission denied for database strict; "
        "as an administrator: GRANT CREATE ON DATABASE strict TO guest\n"
    )
    run(inside, "GRANT CREATE ON DATABASE strict TO guest", "GRANT app TO guest")
    pgherald("install", "--grant-to", "other", env=as_guest, check=True)
    assert "connect as a member of pgherald_owner" in refusal("rewatch", "dateplan_verified", env=as_app)
    assert refusal("rewatch", "dateplan_verified", env=as_other).endswith(
        "; connect as a superuser, or as a member of app and guest\n"
    )


def test_another_administrator_reads_what_to_do(server: Cluster, pgherald: Pgherald) -> None:
    """The roles exist already, and belong to the one that created them."""
    run(at(server, "admin", "postgres"), "CREATE DATABASE of_admin")
    run(at(server, "admin", "of_admin"), STORY)
    pgherald("install", "--create-roles", env={"PGHERALD_DATABASE_URL": at(server, "admin", "of_admin")}, check=True)
    run(at(server, "other", "postgres"), "CREATE DATABASE of_other")
    url = at(server, "other", "of_other")
    run(url, STORY)
    done = pgherald("install", "--create-roles", env={"PGHERALD_DATABASE_URL": url})
    if server.version.startswith("15"):
        # A role with CREATEROLE may grant every role that is no superuser.
        assert done.returncode == 0
        return
    assert done.returncode == 1
    assert "GRANT pgherald_owner, pgherald_daemon, pgherald_backup TO other WITH ADMIN OPTION" in done.stderr
    run(
        at(server, "admin", "postgres"),
        "GRANT pgherald_owner, pgherald_daemon, pgherald_backup TO other WITH ADMIN OPTION",
    )
    pgherald("install", "--create-roles", env={"PGHERALD_DATABASE_URL": url}, check=True)
