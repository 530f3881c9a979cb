"""Code of a table's owner, in an index, a policy, a cast or a trigger, never runs as a superuser."""

import re
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from listener.demo.cluster import Cluster
from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, chosen_binaries
from tests.support.mail import MailServer

RULE = "dateplan_verified"
# Roles whose rights the code behind the table has had: the current one's and, after an attempt to shed it, of the session's.
RIGHTS = re.compile(r"SPIED as (\S+)")
SPY: LiteralString = """
    CREATE ROLE evil; CREATE ROLE mailer LOGIN PASSWORD 'secret'; CREATE ROLE lookups LOGIN PASSWORD 'secret';
    CREATE ROLE keeper LOGIN PASSWORD 'secret' IN ROLE evil;
    CREATE SCHEMA evil AUTHORIZATION evil;
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    GRANT CREATE ON DATABASE app TO keeper;
    GRANT CREATE ON SCHEMA public TO evil;
    ALTER TABLE public.dateplan OWNER TO evil; ALTER TABLE public.users OWNER TO evil; ALTER TABLE public.plan OWNER TO evil;
    SET ROLE evil;
    CREATE TABLE evil.deferred (id integer);
    -- Run as the current role; then what the owner may try to get at the session's.
    CREATE FUNCTION evil.spy() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        attempt text;
    BEGIN
        RAISE LOG 'SPIED as %', current_user;
        FOREACH attempt IN ARRAY ARRAY[
            'RESET ROLE', 'SET ROLE NONE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
            'SET search_path = evil, pg_catalog', 'SET default_transaction_read_only = off',
            'INSERT INTO evil.deferred VALUES (1)', 'DECLARE held CURSOR WITH HOLD FOR SELECT evil.late()',
            'DEALLOCATE ALL', 'PREPARE _pg3_0 AS SELECT evil.late()', 'ALTER FUNCTION pgherald.page_dateplan_verified SECURITY INVOKER']
        LOOP
            BEGIN
                EXECUTE attempt;
                IF attempt ~ 'ROLE|AUTHORIZATION' THEN
                    RAISE LOG 'SPIED as %', current_user;
                END IF;
            EXCEPTION WHEN others THEN
                NULL;
            END;
        END LOOP;
        RETURN true;
    END $$;
    CREATE FUNCTION evil.late() RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RAISE LOG 'SPIED as %', current_user;
        RETURN 1;
    END $$;
    CREATE FUNCTION evil.when_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE LOG 'SPIED as %', current_user;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON evil.deferred DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION evil.when_deferred();
    -- Better than the catalog's, where the path leads here.
    CREATE FUNCTION evil.concat(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spy(); RETURN $1; END $$;
    RESET ROLE;
"""
# Each is run when the table is read, or when a plan for that is made.
WAYS: dict[str, LiteralString] = {
    "index predicate": """
        CREATE FUNCTION evil.steady(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil.spy(); END $$;
        CREATE INDEX ON public.dateplan (id) WHERE evil.steady(1);
        CREATE INDEX ON public.dateplan (status) WHERE evil.steady(2)""",
    "index expression": """
        CREATE FUNCTION evil.steady(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN evil.spy(); END $$;
        CREATE INDEX ON public.dateplan ((evil.steady(1) OR id > 0))""",
    "policy": """
        CREATE POLICY spied ON public.dateplan USING (evil.spy());
        ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY""",
    "cast": """
        CREATE TYPE evil.state AS ENUM ('PE', 'VE');
        ALTER TABLE public.dateplan ALTER status DROP DEFAULT, ALTER status TYPE evil.state USING status::evil.state;
        CREATE FUNCTION evil.shown(evil.state) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spy(); RETURN 'VE'; END $$;
        CREATE CAST (evil.state AS text) WITH FUNCTION evil.shown(evil.state) AS ASSIGNMENT""",
    "domain": """
        CREATE FUNCTION evil.fits(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN evil.spy(); END $$;
        CREATE DOMAIN evil.state AS text CHECK (evil.fits(VALUE));
        ALTER TABLE public.dateplan ALTER status DROP DEFAULT, ALTER status TYPE evil.state""",
    "view": """
        ALTER TABLE public.users RENAME TO accounts;
        CREATE VIEW public.users AS SELECT id, email, email_notifications_enabled AND evil.spy() AS email_notifications_enabled
          FROM public.accounts;
        GRANT SELECT ON public.users TO PUBLIC""",
}  # fmt: skip


class Ground:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.database = Database(cluster.dsn("app"))

    def as_evil(self, statements: LiteralString) -> None:
        with psycopg.connect(self.database.url, autocommit=True) as conn:
            conn.execute("SET ROLE evil")
            conn.execute(statements)

    def url(self, role: str) -> str:
        parts = psycopg.conninfo.conninfo_to_dict(self.database.url)
        return psycopg.conninfo.make_conninfo(**{**parts, "user": role, "password": "secret"})

    def forget(self) -> None:
        """Leave out what the owner's own statements have run until now."""
        with self.cluster.log.open("r+b") as log:
            log.truncate(0)

    def ran_as(self) -> set[str]:
        return set(RIGHTS.findall(self.cluster.log.read_text(encoding="utf-8", errors="replace")))


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with Cluster(chosen_binaries(), {"fsync": "off", "log_min_messages": "log"}) as cluster:
        yield cluster


@pytest.fixture
def ground(server: Cluster) -> Iterator[Ground]:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS app WITH (FORCE)")
        for role in ("evil", "mailer", "lookups", "keeper", "pgherald_owner", "pgherald_daemon", "pgherald_backup"):
            conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        conn.execute("CREATE DATABASE app")
    ground = Ground(server)
    ground.database.execute(STORY)
    ground.database.execute(SPY)
    ground.database.add_plan("Café", "a@example.org", status="VE")
    ground.database.add_plan("Café", "b@example.org")
    yield ground
    ground.database.close()


@pytest.fixture
def pgherald(ground: Ground, mail: MailServer, tmp_path: Any) -> Pgherald:
    settings = {
        "PGHERALD_DATABASE_URL": ground.database.url,
        "PGHERALD_SMTP_URL": mail.url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
        "PGHERALD_LOG_FORMAT": "json",
    }
    return Pgherald(settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", [way if way == "index predicate" else repeats(way) for way in WAYS])
def test_never_as_a_superuser(ground: Ground, pgherald: Pgherald, way: str) -> None:
    ground.as_evil(WAYS[way])
    ground.forget()
    pgherald("install", check=True)
    assert ground.ran_as() <= {"evil"}, "install"
    ground.database.execute("SET session_replication_role = replica; UPDATE public.dateplan SET status = 'VE'")
    ground.database.close()
    for command in (
        ("doctor",), ("preview", RULE), ("explain", RULE, "2"), ("backfill", RULE, "--dry-run"), ("backfill", RULE),
        ("forget", RULE, "2"),
    ):  # fmt: skip
        ground.forget()
        done = pgherald(*command)
        assert ground.ran_as() <= {"evil"}, command
        assert command[0] == "doctor" or done.returncode == 0, f"{command}: {done.stderr}"
    assert [event["key"] for event in ground.database.events()] == []
    assert ground.database.value("SELECT count(*) FROM pgherald.handled WHERE why = 'existing'") == 1


def test_the_code_behind_the_table_is_run_at_all(ground: Ground, pgherald: Pgherald) -> None:
    """Else the test above would prove nothing."""
    ground.as_evil(WAYS["index predicate"])
    ground.forget()
    pgherald("install", check=True)
    assert ground.ran_as() == {"evil"}


@pytest.mark.parametrize("way", ["index predicate", *map(repeats, ("policy", "cast"))])
def test_an_installer_who_is_a_member_of_the_owner_reads_as_the_owner(
    ground: Ground, pgherald: Pgherald, way: str
) -> None:
    ground.as_evil(WAYS[way])
    ground.forget()
    env = {"PGHERALD_DATABASE_URL": ground.url("keeper")}
    pgherald("install", check=True, env=env)
    pgherald("backfill", RULE, check=True, env=env)
    assert ground.ran_as() <= {"evil"}
    schema = "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'pgherald'"
    assert "evil" not in ground.database.value(schema), "what was granted for the reading is gone with it"
    assert ground.database.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'page\\_dateplan%'") == 0


def test_backfill_does_not_look_through_policies(ground: Ground, pgherald: Pgherald) -> None:
    """A row that a policy hides would be taken for one that is not there."""
    pgherald("install", check=True)
    ground.as_evil(
        """CREATE POLICY spied ON public.dateplan USING (evil.spy());
           ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY; ALTER TABLE public.dateplan FORCE ROW LEVEL SECURITY"""
    )
    ground.forget()
    refused = pgherald("backfill", RULE)
    assert refused.returncode == 1
    assert "row-level security policy" in refused.stderr
    assert ground.ran_as() == set()


STEAL: LiteralString = """
    CREATE FUNCTION evil.steal() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        RAISE LOG 'SPIED as % with %', current_user, (SELECT value FROM pgherald.secret);
        RETURN true;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE LOG 'SPIED as % in vain', current_user;
        RETURN true;
    END $$;
    CREATE POLICY stolen ON public.dateplan USING (evil.steal());
    ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY"""


@pytest.mark.slow
@pytest.mark.parametrize("separate", [True, False], ids=["a login for lookups", "one login"])
def test_a_login_for_lookups_keeps_the_secret(
    ground: Ground, pgherald: Pgherald, mail: MailServer, separate: bool
) -> None:
    pgherald("install", "--grant-to", "mailer", check=True)
    for role in ("lookups", "mailer"):
        ground.database.execute(
            sql.SQL("GRANT SELECT ON public.dateplan, public.users, public.plan TO {}").format(sql.Identifier(role))
        )
    ground.as_evil(STEAL)
    env = {"PGHERALD_DATABASE_URL": ground.url("mailer")}
    if separate:
        ground.database.execute("REVOKE SELECT ON public.dateplan, public.users, public.plan FROM mailer")
        env["PGHERALD_DATABASE_LOOKUP_URL"] = ground.url("lookups")
    with pgherald.daemon(env=env):
        ground.forget()
        ground.database.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = 2")
        mail.wait_for(1)
        wait_until(lambda: "SPIED" in ground.cluster.log.read_text(encoding="utf-8", errors="replace"))
        said = ground.cluster.log.read_text(encoding="utf-8", errors="replace")
    secret = ground.database.value("SELECT value FROM pgherald.secret")
    assert ("SPIED as lookups in vain" in said) == separate
    assert (f"SPIED as mailer with {secret}" in said) != separate
    if separate:
        ground.forget()
        for command in (("explain", RULE, "2"), ("preview", RULE, "--key", "2")):
            pgherald(*command, env=env, check=True)
        findings = pgherald("doctor", env=env).stdout
        assert "ok     login: lookups run as lookups" in findings
        assert ground.ran_as() == {"lookups"}
