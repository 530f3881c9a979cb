"""PostgreSQL's own programs as the database's owner or a backup role, neither of them a superuser."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from listener.demo.cluster import Cluster
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, chosen_binaries
from tests.support.inbox import changes
from tests.support.mail import MailServer

# Each case starts a server and runs programs from outside.
pytestmark = pytest.mark.slow
RULE = "dateplan_verified"
ROLES = """
    CREATE ROLE app LOGIN PASSWORD 'secret';
    CREATE ROLE keeper LOGIN PASSWORD 'secret';
"""


@dataclass
class Shop:
    """A server whose database `shop` belongs to the role `app`, as do the tables in it."""

    cluster: Cluster
    database: Database
    pgherald: Pgherald

    def url(self, role: str, database: str = "shop") -> str:
        return f"postgresql://{role}:secret@127.0.0.1:{self.cluster.port}/{database}"

    def run(self, program: str, *arguments: object, role: str = "app", at: str = "shop", **options: str) -> str:
        """Run one of the server's programs as a role; what it said, if it succeeded."""
        done = self.attempt(program, *arguments, role=role, at=at, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def attempt(
        self, program: str, *arguments: object, role: str = "app", at: str = "shop", **options: str
    ) -> subprocess.CompletedProcess[str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(
            [self.cluster.binaries / program, *map(str, arguments), "-d", self.url(role, at)],
            env={**outside, **options}, capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip

    def check(self, name: str) -> str:
        """What doctor says of one check."""
        lines = self.pgherald("doctor").stdout.splitlines()
        [line] = [line for line in lines if line.split(maxsplit=1)[1].startswith(f"{name}: ")]
        return line


@pytest.fixture
def shop(mail: MailServer, tmp_path: Path) -> Iterator[Shop]:
    with Cluster(chosen_binaries(), {"fsync": "off"}) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute(ROLES)
            conn.execute("CREATE DATABASE shop OWNER app")
            conn.execute("CREATE DATABASE other OWNER app")
        database = Database(cluster.dsn("shop"))
        with database.connect() as conn:
            conn.execute("SET ROLE app")
            conn.execute(STORY)
        settings = {
            "PGHERALD_DATABASE_URL": database.url,
            "PGHERALD_SMTP_URL": mail.url,
            "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
            "PGHERALD_LOG_FORMAT": "json",
        }
        yield Shop(cluster, database, Pgherald(settings, tmp_path))
        database.close()


def dumps_of_all_kinds(shop: Shop, folder: Path, role: str) -> None:
    for number, options in enumerate((["-Fc"], ["-Fd", "-j", "2"], ["--schema-only"], ["--data-only"])):
        shop.run("pg_dump", *options, "-f", folder / f"{role}{number}", role=role)


@pytest.mark.parametrize("options", [["--create-roles"], repeats([])], ids=["with roles", "without"])
def test_the_owner_can_dump_after_what_install_says(shop: Shop, tmp_path: Path, options: list[str]) -> None:
    shop.run("pg_dump", "-f", tmp_path / "before")
    shop.run("vacuumdb")
    said = shop.pgherald("install", *options, check=True).stderr
    assert "permission denied for schema pgherald" in shop.attempt("pg_dump", "-f", tmp_path / "x").stderr
    assert "permission denied for schema pgherald" in shop.attempt("vacuumdb").stderr
    line = shop.check("backup")
    assert line.startswith("warn ")
    found = re.search(r"^backup: pg_dump and vacuumdb fail as app, which cannot .*?; (.*); see docs/dba.md", said, re.M)
    assert found, said
    assert found[1] in line

    shop.database.execute(found[1])
    dumps_of_all_kinds(shop, tmp_path, "app")
    shop.run("vacuumdb", "--analyze")
    shop.run("reindexdb")
    assert shop.check("backup").startswith("ok ")
    # It was granted what it needs, so the check of other readers does not ask to revoke it.
    assert shop.check("readers").startswith("ok ")
    assert "backup:" not in shop.pgherald("install", *options, check=True).stderr


def test_a_role_for_backups(shop: Shop, tmp_path: Path) -> None:
    """As docs/dba.md has it: beside our role, the application's tables, and policies."""
    shop.pgherald("install", "--create-roles", check=True)
    shop.database.execute(
        """GRANT pgherald_backup TO keeper;
           GRANT SELECT ON ALL TABLES IN SCHEMA public TO keeper; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO keeper"""
    )
    dumps_of_all_kinds(shop, tmp_path, "keeper")
    assert shop.check("backup").startswith("ok ")
    assert shop.check("readers").startswith("ok ")
    shop.database.execute("ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in shop.attempt("pg_dump", "-f", tmp_path / "x", role="keeper").stderr
    shop.database.execute("ALTER ROLE keeper BYPASSRLS")
    shop.run("pg_dump", "-f", tmp_path / "y", role="keeper")
    # It reads and no more.
    with psycopg.connect(shop.url("keeper")) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM pgherald.outbox")


def test_a_dump_restored_whole(shop: Shop, mail: MailServer, tmp_path: Path) -> None:
    """Rows are loaded before there are triggers: each keeps the event that it has, and gets no other."""
    shop.pgherald("install", "--create-roles", check=True)
    shop.database.execute("GRANT pgherald_backup TO app")
    sent, waiting = (shop.database.add_plan("Café", f"{name}@example.org") for name in ("sent", "waiting"))
    shop.database.verify(sent)
    shop.pgherald("run", "--once", check=True)
    shop.database.verify(waiting)
    shop.run("pg_dump", "-f", tmp_path / "dump")
    with psycopg.connect(shop.cluster.dsn(), autocommit=True) as conn:
        conn.execute("ALTER ROLE keeper SUPERUSER")
    shop.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "dump", role="keeper", at="other")
    copy = {"PGHERALD_DATABASE_URL": shop.cluster.dsn("other")}
    assert "fault" not in shop.pgherald("doctor", env=copy).stdout
    shop.pgherald("run", "--once", env=copy, check=True)
    assert mail.recipients == ["sent@example.org", "waiting@example.org"]


@pytest.mark.parametrize("ways", [["whole"], repeats(["--schema-only", "--data-only"])], ids=["whole", "in two"])
def test_changes_in_the_inbox_are_restored_and_sent_once(
    shop: Shop, mail: MailServer, tmp_path: Path, ways: list[str]
) -> None:
    """One of a row that was sent before, too. The other server counts its transactions from its own beginning."""
    shop.pgherald("install", "--create-roles", check=True)
    shop.database.execute("GRANT pgherald_backup TO app")
    again, new = (shop.database.add_plan("Café", f"{name}@example.org") for name in ("again", "new"))
    shop.database.verify(again)
    shop.pgherald("run", "--once", check=True)
    shop.database.execute("UPDATE public.dateplan SET status = 'PE'")
    shop.database.verify(again, new)
    assert changes(shop.database) == 2
    with psycopg.connect(shop.cluster.dsn(), autocommit=True) as conn:
        conn.execute("ALTER ROLE keeper SUPERUSER")
    for number, way in enumerate(ways):
        kind = [] if way == "whole" else [way, *(["--disable-triggers"] if way == "--data-only" else [])]
        shop.run("pg_dump", *kind, "-f", tmp_path / f"dump{number}")
        shop.run(
            "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / f"dump{number}", role="keeper", at="other"
        )
    copy = Database(shop.cluster.dsn("other"))
    assert changes(copy) == 2
    settings = copy.execute(
        "SELECT relreplident::text, reloptions FROM pg_class WHERE oid = 'pgherald.inbox'::regclass"
    )
    assert settings == shop.database.execute(
        "SELECT relreplident::text, reloptions FROM pg_class WHERE oid = 'pgherald.inbox'::regclass"
    )
    # As of a server with far fewer transactions, and of one with far more.
    copy.execute(
        "UPDATE pgherald.inbox SET captured_xid = CASE key WHEN %s THEN '3' ELSE '99999999999' END::xid8", (str(again),)
    )
    copy.close()
    shop.pgherald("run", "--once", env={"PGHERALD_DATABASE_URL": shop.cluster.dsn("other")}, check=True)
    assert sorted(mail.recipients) == ["again@example.org", "again@example.org", "new@example.org"]


def test_a_dump_without_our_schema(shop: Shop, mail: MailServer, tmp_path: Path) -> None:
    """The steps of docs/dba.md. The triggers' functions are missing in the dump, so its list leaves the triggers out."""
    shop.pgherald("install", check=True)
    sent, waiting = (shop.database.add_plan("Café", f"{name}@example.org") for name in ("sent", "waiting"))
    shop.database.verify(sent)
    shop.pgherald("run", "--once", check=True)
    shop.database.verify(waiting)
    shop.run("pg_dump", "-N", "pgherald", "-Fc", "-f", tmp_path / "dump")
    whole = shop.attempt("pg_restore", "--exit-on-error", "--single-transaction", tmp_path / "dump", at="other")
    assert 'schema "pgherald" does not exist' in whole.stderr

    entries = listed(shop, tmp_path)
    (tmp_path / "list").write_text("".join(line for line in entries if not re.search(r" TRIGGER .* pgherald_", line)))
    shop.run("pg_restore", "--exit-on-error", "-L", tmp_path / "list", tmp_path / "dump", at="other")
    copy = {"PGHERALD_DATABASE_URL": shop.cluster.dsn("other")}
    shop.pgherald("install", env=copy, check=True)
    shop.pgherald("run", "--once", env=copy, check=True)
    assert mail.recipients == ["sent@example.org"]
    assert "0 rows would be captured" in shop.pgherald("backfill", RULE, "--dry-run", env=copy, check=True).stdout
    # The event that waited was in the schema that was left out. Its row is found among those that existed.
    found = shop.pgherald("backfill", RULE, "--include-existing", "--dry-run", env=copy, check=True).stdout
    assert "2 rows would be captured" in found


def listed(shop: Shop, folder: Path) -> list[str]:
    done = subprocess.run(
        [shop.cluster.binaries / "pg_restore", "-l", folder / "dump"], capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.splitlines(keepends=True)
