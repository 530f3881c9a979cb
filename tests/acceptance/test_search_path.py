"""Another role plants an object for each name in our SQL. No command and no daemon ever runs one."""

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from listener.cli.main import _COMMANDS
from listener.demo.cluster import Cluster
from listener.resources import resource
from tests.acceptance.test_top import watching
from tests.acceptance.test_unsubscribe_endpoint import ONE_CLICK, path_of
from tests.fixtures.programs import Programs
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, chosen_binaries
from tests.support.mail import MailServer
from tests.support.planting import MARK, names_in_statements, plant, plant_in_pg_temp
from tests.support.reports import dsn
from tests.support.web import ANY_PORT, Client

# pg_catalog last: a name without its schema is looked for in the other schemas first.
PATH = '"$user", public, pg_temp, pg_catalog'
ROLES = ("postgres", "keeper", "mailer")
# The tables belong to another role than those. Their keys and states are of types that this role has created.
APPLICATION = """
    CREATE ROLE application;
    CREATE SCHEMA app;
    CREATE TYPE app.state AS ENUM ('PE', 'VE');
    CREATE DOMAIN app.ref AS integer CHECK (VALUE > 0);
    CREATE TABLE app.booking (ref app.ref, part integer, state app.state, PRIMARY KEY (ref, part));
    INSERT INTO app.booking SELECT g, 1, 'VE' FROM generate_series(1, 3) AS g;
    INSERT INTO app.booking SELECT g, 1, 'PE' FROM generate_series(4, 9) AS g;
    ALTER TABLE app.booking OWNER TO application;
    ALTER TABLE public.dateplan OWNER TO application;
    GRANT USAGE ON SCHEMA app TO PUBLIC;
"""
LOGINS = """
    CREATE ROLE pgherald_owner; CREATE ROLE pgherald_daemon;
    CREATE ROLE keeper LOGIN PASSWORD 'secret' IN ROLE pgherald_owner, application;
    CREATE ROLE mailer LOGIN PASSWORD 'secret' IN ROLE pgherald_daemon;
    CREATE ROLE lookups LOGIN PASSWORD 'secret';
    GRANT CREATE ON DATABASE planted TO pgherald_owner;
    GRANT SELECT ON public.dateplan, public.users, public.plan, app.booking TO lookups, keeper;
    GRANT UPDATE (email_notifications_enabled) ON public.users TO lookups;
    GRANT SELECT ON public.users, public.dateplan TO mailer;
    -- The operator's own query keeps the path of its role, which is the usual one.
    ALTER ROLE lookups IN DATABASE planted SET search_path = "$user", public;
"""
LOOKUP = """SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
              FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
             WHERE d.id = ANY (%(keys)s::bigint[])"""
BOOKING = """SELECT ARRAY[pg_catalog.concat(ref), pg_catalog.concat(part)]::pg_catalog.text AS key, pg_catalog.concat(state) AS current,
                    'booked@example.org' AS email, true AS consent, 'x' AS place
               FROM app.booking
              WHERE ARRAY[pg_catalog.concat(ref), pg_catalog.concat(part)]::pg_catalog.text OPERATOR(pg_catalog.=) ANY (%(keys)s::pg_catalog.text[])"""
RULES = f"""
[rules.dateplan_verified]
table = "public.dateplan"
becomes = "VE"
template = "dateplan_verified"
unsubscribe = "UPDATE public.users SET email_notifications_enabled = false WHERE id = ANY (%(keys)s::bigint[])"
bounced = "UPDATE public.users SET email_notifications_enabled = %(class)s <> 'hard' WHERE id = ANY (%(keys)s::bigint[])"
lookup = '''{LOOKUP}'''
find = "SELECT id AS key FROM public.dateplan WHERE user_id = (SELECT u.id FROM public.users u WHERE u.email = %(email)s)"
again_after = "7d"
[rules.booked]
table = "app.booking"
key = ["ref", "part"]
column = "state"
becomes = "VE"
template = "dateplan_verified"
lookup = '''{BOOKING}'''
"""
# Every command; `demo` has a server of its own, and nobody else is in it.
CALLS: dict[str, list[tuple[str, ...]]] = {
    "demo": [],
    "init": [("init", "--out", "-", "--table", "public.dateplan"), ("init", "--out", "-", "--table", "app.booking")],
    "install": [("install",)],
    "uninstall": [],
    "doctor": [("doctor", "--json")],
    "run": [("run", "--once")],
    "status": [("status",), ("status", "--json")],
    "top": [],
    "explain": [("explain", "dateplan_verified", "1"), ("explain", "dateplan_verified", "777"), ("explain", "booked", "4,1"), ("explain", "dateplan_verified", "--email", "a@example.org"), ("explain", "--message", "3ebqgcaxgzk6rhfw3qteqncekm")],
    "events": [
        ("events", "list"), ("events", "list", "dateplan_verified", "--state", "sent"), ("events", "retry", "dateplan_verified", "--yes"),
        ("events", "discard", "dateplan_verified", "--yes"), ("events", "resolve", "dateplan_verified", "--as", "sent", "--yes"),
        ("events", "resolve", "booked", "--as", "resend", "--yes"),
    ],
    "pause": [("pause", "booked")],
    "resume": [("resume", "booked"), ("resume",)],
    "backfill": [("backfill", "booked", "--dry-run"), ("backfill", "booked", "--mark-only", "--limit", "1"), ("backfill", "booked")],
    "rewatch": [("rewatch", "booked"), ("rewatch", "booked", "--alter", "ALTER TABLE app.booking ADD COLUMN added pg_catalog.int4")],
    "forget": [("forget", "dateplan_verified", "2"), ("forget", "dateplan_verified", "--email", "nobody@example.org")],
    "purge": [("purge", "--older-than", "1ms")],
    "preview": [("preview", "dateplan_verified"), ("preview", "booked")],
    # It needs a report on an email, and comes after the daemon.
    "bounce": [],
    "send-test": [("send-test", "--to", "me@example.org", "--rule", "booked")],
}  # fmt: skip


@dataclass
class Ground:
    """A database full of plants, of which some run when a name in our SQL is found by the path."""

    cluster: Cluster
    database: Database

    def url(self, role: str) -> str:
        return self.database.url if role == "postgres" else self._as(role)

    @property
    def lookup_url(self) -> str:
        return self._as("lookups")

    def _as(self, role: str) -> str:
        parts = psycopg.conninfo.conninfo_to_dict(self.database.url)
        return psycopg.conninfo.make_conninfo(**{**parts, "user": role, "password": "secret"})

    def ran(self) -> list[str]:
        """Return the planted objects that have run so far, each once. The server writes its log without delay."""
        return sorted(set(re.findall(rf"{MARK} (.*)", self.cluster.log.read_text(encoding="utf-8", errors="replace"))))

    def change(self) -> None:
        """As the application does: with the hostile path, and all that is its own in full."""
        self.database.execute(
            """INSERT INTO public.users (id, email, email_notifications_enabled) VALUES (1, 'a@example.org', true);
               INSERT INTO public.plan (id, place) VALUES (1, 'Café');
               INSERT INTO public.dateplan (id, user_id, plan_id, status) SELECT g, 1, 1, 'PE' FROM pg_catalog.generate_series(1, 6) AS g;
               UPDATE public.dateplan SET status = 'VE' WHERE id OPERATOR(pg_catalog.<) 4::pg_catalog.int8;
               UPDATE app.booking SET state = 'VE' WHERE part OPERATOR(pg_catalog.=) 1 AND ref::pg_catalog.int4 OPERATOR(pg_catalog.>) 7"""
        )


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Cluster(chosen_binaries(), {"fsync": "off", "log_min_messages": "log"}) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE planted")
        database = Database(cluster.dsn("planted"))
        database.execute(STORY)
        database.execute(APPLICATION)
        database.execute(LOGINS)
        places = ["public", *ROLES]
        for role in ROLES:
            database.execute(f"CREATE SCHEMA {role}; GRANT USAGE ON SCHEMA {role} TO PUBLIC")
        made = plant(database, places)
        if database.value("SELECT current_setting('server_version_num')::integer") >= 170000:
            plant_in_pg_temp(database)
        database.execute(f"ALTER DATABASE planted SET search_path = {PATH}")
        database.close()
        assert min(made.values()) > 30, made
        print(f"planted {made} for {len(names_in_statements().words)} words in {len(places)} places, as {ROLES}")
        yield Ground(cluster, database)
        database.close()


def test_the_plants_run_where_a_name_is_found_by_the_path(ground: Ground) -> None:
    """Else the rest would prove nothing."""
    for statement in (
        "SELECT format('%s', 'x')", "SELECT 1 = 2", "SELECT count(*) FROM pg_class", "SELECT 'x'::text",
        "SELECT state::text FROM app.booking", "SELECT min('x'::name::pg_catalog.text)", "SELECT now()",
    ):  # fmt: skip
        before = len(ground.ran())
        ground.database.execute(statement)  # type: ignore[arg-type]
        assert len(ground.ran()) > before, statement


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ROLES)
def test_no_command_and_no_daemon_runs_a_plant(
    ground: Ground,
    role: str,
    mail: MailServer,
    tmp_path: Path,
    programs: Programs,
) -> None:
    assert set(CALLS) == set(_COMMANDS), "a command that nobody has tried"
    (tmp_path / "pgherald.toml").write_text(RULES, encoding="utf-8")
    pgherald = Pgherald(
        {
            "PGHERALD_DATABASE_URL": ground.url(role),
            "PGHERALD_DATABASE_LOOKUP_URL": ground.lookup_url,
            "PGHERALD_SMTP_URL": mail.url,
            "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
            "PGHERALD_LOG_FORMAT": "json",
            "PGHERALD_HTTP_PUBLIC_URL": "https://mail.example.org",
        },
        tmp_path,
    )
    superuser = {"PGHERALD_DATABASE_URL": ground.url("postgres")}
    pgherald("install", "--create-roles", check=True, env=superuser)
    assert ground.ran() == []
    ground.change()
    assert ground.ran() == [], "capture"
    failed = []
    for call in (call for calls in CALLS.values() for call in calls):
        done = pgherald(*call)
        assert ground.ran() == [], call
        assert "Traceback" not in done.stderr
        if done.returncode and not (role == "mailer" and "permission denied" in done.stderr):
            failed.append((call, done.stdout[-500:], done.stderr[-500:]))
    # Of these, exit status 1 is an answer.
    assert not [
        call for call, *_ in failed if call[0] not in ("init", "doctor", "explain") and "--email" not in call
    ], failed
    with watching(pgherald) as terminal:
        terminal.wait_for("dateplan_verified")
        terminal.press(b"q")
        terminal.ended()
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        plan = 4
        ground.database.execute(
            "UPDATE public.dateplan SET status = 'VE' WHERE id OPERATOR(pg_catalog.=) 4::pg_catalog.int8"
        )
        state = "SELECT state FROM pgherald.outbox WHERE key OPERATOR(pg_catalog.=) '4'::pg_catalog.text"
        wait_until(lambda: ground.database.execute(state) == [("sent",)])
        for path in ("/", "/readyz", "/metrics", f"/explain?rule=dateplan_verified&key={plan}"):
            assert client.get(path).status < 400, path
        assert client.post(path_of(ground.database, plan), ONE_CLICK).status == 200
        daemon.signal(signal.SIGHUP)
        daemon.wait_event("reloaded")
        # A look after other daemons, a beat of the statistics, a sweep of claims without an answer: 10 s all in all.
        beats = time.monotonic() + 11
        wait_until(lambda: time.monotonic() > beats, 30)
        assert ground.ran() == []
    told = json.loads(pgherald("explain", "dateplan_verified", str(plan), "--json", check=True).stdout)
    report = dsn(key=told["events"][-1]["message_id"]).decode()
    assert "hard bounce of dateplan_verified" in pgherald("bounce", input=report, check=True).stdout
    assert ground.ran() == [], "bounce"
    for name in ("triggers", "roles", "uninstall"):
        done = programs.psql(
            ground.database, "-v", "ON_ERROR_STOP=1", "-f", resource(f"sql/{name}.sql"), "-c", "SHOW search_path"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-3].strip() == PATH, "as it was before"
        assert ground.ran() == [], name
    pgherald("install", check=True, env=superuser)
    pgherald("uninstall", "--force", "--yes", check=True, env=superuser)
    assert ground.ran() == []
