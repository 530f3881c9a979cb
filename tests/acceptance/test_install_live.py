"""`install` into a database in use: which sessions wait, for how long, and which rights each role has afterwards."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from listener.admin.history import read_history
from listener.config import settings as config
from listener.config.keys import parse_key
from listener.db.install import INSTALL_TIMEOUT_S, LOCK_TIMEOUT_S, InstallStep, run
from listener.resources import resource
from tests.support import repeats, wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY, Database, Databases, install_triggers
from tests.support.mail import MailServer

RULE = "dateplan_verified"
# The lock's time-out, and what a loaded machine adds; without the time-out it would be all of `INSTALL_TIMEOUT_S`.
LONGEST = LOCK_TIMEOUT_S + 4


@pytest.fixture
def story(bare_database: Database) -> Database:
    """The application's tables, and nothing of ours."""
    bare_database.execute(STORY)
    return bare_database


class Writer:
    """An application that changes its row, again and again, each time in a transaction of its own.

    `captures`: each second change reaches the rule's value.
    """

    def __init__(self, database: Database, plan: int, *, captures: bool) -> None:
        self.longest = 0.0
        self.writes = 0
        self._conn = database.connect(application_name="writer")
        self._plan = plan
        self._captures = captures
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._over.wait(0.002):
            begin = time.monotonic()
            for status in ("PE", "VE") if self._captures else ("PE",):
                self._conn.execute("UPDATE public.dateplan SET status = %s WHERE id = %s", (status, self._plan))
            self.longest = max(self.longest, time.monotonic() - begin)
            self.writes += 1


@contextmanager
def writing(database: Database, plan: int, *, captures: bool = False) -> Iterator[Writer]:
    writer = Writer(database, plan, captures=captures)
    try:
        yield writer
    finally:
        writer.stop()


@pytest.fixture
def role(databases: Databases, bare_database: Database) -> Iterator[Callable[[str], tuple[str, str]]]:
    """``role("daemon")`` makes a login role of the run's own; its name, and its URL of the test's database."""
    made: list[sql.Identifier] = []

    def make(purpose: str) -> tuple[str, str]:
        name = f'{bare_database.value("SELECT current_database()")} "{purpose}"'[:60]
        made.append(sql.Identifier(name))
        bare_database.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'geheim'").format(made[-1]))
        url = psycopg.conninfo.make_conninfo(bare_database.url, user=name, password="geheim")
        return name, url

    yield make
    bare_database.close()
    with bare_database.connect(options="-c client_min_messages=warning") as conn:
        for name in made:
            conn.execute(sql.SQL("DROP OWNED BY {0} CASCADE").format(name))
            conn.execute(sql.SQL("DROP ROLE {0}").format(name))


@pytest.fixture
def roles(databases: Databases) -> Iterator[None]:
    """pgherald's own roles are the whole server's: one test at a time."""
    with psycopg.connect(databases.url, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(hashtext('pgherald roles'))")
        yield


def test_it_waits_for_a_transaction_and_names_it(
    story: Database, pgherald: Pgherald, capsys: pytest.CaptureFixture[str]
) -> None:
    held, free = story.add_plan("Café", "a@example.org"), story.add_plan("Bar", "b@example.org")
    holder = story.connect()
    holder.execute("BEGIN")
    holder.execute("UPDATE public.dateplan SET status = 'XX' WHERE id = %s", (held,))
    done: list[Any] = []
    with writing(story, free) as writer:
        install = threading.Thread(target=lambda: done.append(pgherald("install")))
        install.start()
        wanted = "SELECT pid, query_start FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE datname = current_database() AND NOT granted AND mode = 'ShareRowExclusiveLock'"
        first = wait_until(lambda: story.execute(wanted))
        # Its second try stands in the way of the writer again; then the transaction ends.
        wait_until(lambda: story.execute(wanted) not in ([], first))
        holder.execute("COMMIT")
        install.join()
    assert done[0].returncode == 0
    said = done[0].stderr
    assert f"waiting for a lock on public.dateplan, held by pid {holder.info.backend_pid} (user postgres)" in said
    assert "UPDATE public.dateplan" in said
    with capsys.disabled():
        print(f"\nlongest block of {writer.writes} writes: {writer.longest:.3f} s")
    assert writer.longest < LONGEST
    assert story.events() == []
    story.verify(held)
    assert [event["key"] for event in story.events()] == [str(held)]


@pytest.mark.parametrize("leftover", [repeats(False), True])
def test_an_index_is_built_while_the_application_captures(story: Database, pgherald: Pgherald, leftover: bool) -> None:
    """As an upgrade of a large outbox does. Without CONCURRENTLY, the captures queue behind the build."""
    pgherald("install", check=True)
    held, free = story.add_plan("Café", "a@example.org"), story.add_plan("Bar", "b@example.org")
    story.verify(held)
    story.take_over()
    if leftover:
        story.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgherald.outbox_available_idx'::regclass")  # fmt: skip
    else:
        story.execute("DROP INDEX pgherald.outbox_available_idx")
    holder = story.connect()
    holder.execute("BEGIN")
    # A daemon's open write.
    holder.execute("UPDATE pgherald.outbox SET attempt = attempt WHERE key = %s", (str(held),))
    done: list[Any] = []
    with writing(story, free, captures=True) as writer:
        install = threading.Thread(target=lambda: done.append(pgherald("install")))
        install.start()
        building = "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND wait_event = 'virtualxid' AND datname = current_database()"
        try:
            wait_until(lambda: story.execute(building, ("%INDEX CONCURRENTLY%",)))
            written = writer.writes
            wait_until(lambda: writer.writes > written + 200)
        finally:
            holder.execute("COMMIT")
            install.join()
    assert done[0].returncode == 0, done[0].stderr
    assert "outbox_available_idx: waits for open transactions" in done[0].stderr
    print(f"longest of {writer.writes} writes: {writer.longest:.3f} s")
    assert writer.longest < LOCK_TIMEOUT_S / 2
    valid = (
        "SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = to_regclass('pgherald.outbox_available_idx')"
    )
    assert story.value(valid)
    assert pgherald("install", check=True).stderr == ""


@pytest.mark.slow
def test_it_gives_up_and_names_who_is_in_the_way(
    story: Database, pgherald: Pgherald, role: Callable[[str], tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    held, free = story.add_plan("Café", "a@example.org"), story.add_plan("Bar", "b@example.org")
    name, url = role("report")
    story.execute(sql.SQL("GRANT SELECT, UPDATE ON public.dateplan TO {}").format(sql.Identifier(name)))
    with psycopg.connect(url) as holder, writing(story, free) as writer:
        holder.execute("UPDATE public.dateplan SET status = 'XX' WHERE id = %s", (held,))
        begin = time.monotonic()
        done = pgherald("install")
        elapsed = time.monotonic() - begin
        holder.rollback()
        pid = holder.info.backend_pid
    with capsys.disabled():
        print(f"\ngave up after {elapsed:.1f} s; longest block of {writer.writes} writes: {writer.longest:.3f} s")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    # It says how long it waited; to start takes seconds too where all cores are busy.
    assert elapsed < INSTALL_TIMEOUT_S + 15
    assert last.startswith(
        f"Error: rule {RULE}: gave up after {INSTALL_TIMEOUT_S:g} s waiting for a lock on public.dateplan, held by pid {pid}"
    )
    assert f"(user {name}): UPDATE public.dateplan SET status" in last
    assert writer.longest < LONGEST
    # Nothing is half there.
    assert (
        story.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.dateplan'::regclass AND NOT tgisinternal")
        == 0
    )
    pgherald("install", check=True)


# A schema, tables and columns whose names must be quoted, with what TOML, Python and SQL would each take for their own.
ODD = r"""
    CREATE SCHEMA "The ""App";
    SET search_path = "The ""App";
    CREATE TYPE "State" AS ENUM ('it''s on', 'off');
    CREATE TABLE "user" (id uuid PRIMARY KEY, "E-Mail" text, "wants 100%" boolean);
    CREATE TABLE "Date Plan" ("the id" text, "No." smallint, owner uuid REFERENCES "user", "The State" "State", "order" text,
                              PRIMARY KEY ("the id", "No."));
    CREATE TABLE "Coupon" (code varchar(20) PRIMARY KEY, owner uuid REFERENCES "user", "The State" "State");
    INSERT INTO "user" VALUES ('c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f3', 'anna@example.org', true);
"""
ODD_FILE = r"""
[rules.plan_on]
table = '"The ""App"."Date Plan"'
key = ["the id", "No."]
column = "The State"
becomes = "it's on"
template = "dateplan_verified"
lookup = '''
  SELECT ARRAY[d."the id", d."No."::text] AS key, d."The State" AS current, u."E-Mail" AS email, u."wants 100%%" AS consent,
         d."order" AS place
    FROM "The ""App"."Date Plan" d JOIN "The ""App"."user" u ON u.id = d.owner
   WHERE (d."the id", d."No.") IN (SELECT (k::text[])[1], (k::text[])[2]::smallint FROM unnest(%(keys)s::text[]) AS k)
'''
[rules.coupon_on]
table = '"The ""App"."Coupon"'
key = "code"
column = "The State"
becomes = "it's on"
template = "dateplan_verified"
lookup = '''
  SELECT d.code AS key, d."The State" AS current, u."E-Mail" AS email, u."wants 100%%" AS consent, d.code AS place
    FROM "The ""App"."Coupon" d JOIN "The ""App"."user" u ON u.id = d.owner
   WHERE d.code = ANY (%(keys)s)
'''
"""
ODD_KEYS = ["plain", "a,b", 'say "hi"', "back\\slash", "{brace}", "two words", "", "NULL", "ünï", "it's", "50%"]


@pytest.mark.slow
def test_names_that_need_quoting_and_keys_of_any_text(
    bare_database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with bare_database.connect() as conn:
        conn.execute(ODD)
        (pgherald.folder / "pgherald.toml").write_text(ODD_FILE, encoding="utf-8")
        pgherald("install", check=True)
        for key in ODD_KEYS:
            conn.execute("""INSERT INTO "Date Plan" SELECT %s, 7, id, 'off', %s FROM "user" """, (key, f"<{key}>"))
            conn.execute("""INSERT INTO "Coupon" SELECT %s, id, 'it''s on' FROM "user" """, (key,))
        conn.execute("""UPDATE "Date Plan" SET "The State" = 'it''s on'""")
        literals = dict(
            conn.execute("""SELECT "the id", ARRAY["the id", "No."::text]::text FROM "Date Plan" """).fetchall()
        )
    pgherald("run", "--once", check=True)
    assert {(event["state"], event["reason"]) for event in bare_database.events()} == {("sent", None)}
    assert len(mail.messages) == 2 * len(ODD_KEYS)
    rules = config.load(pgherald.folder / "pgherald.toml").rules
    with bare_database.connect() as conn:
        for key in ODD_KEYS:
            for rule, named in (("plan_on", literals[key]), ("coupon_on", key)):
                told = read_history(conn, conn, rule, rules[rule], parse_key(rules[rule], named))
                assert [event["state"] for event in told.events] == ["sent"], (rule, named)
    assert json.loads(pgherald("explain", "plan_on", "plain,7", "--json", check=True).stdout)["events"]
    unknown = pgherald("explain", "plan_on", "nobody,7")
    assert unknown.returncode == 1
    pgherald("uninstall", "--yes", check=True)
    assert bare_database.value("SELECT to_regnamespace('pgherald')") is None


def test_row_level_security(
    story: Database, mail: MailServer, pgherald: Pgherald, role: Callable[[str], tuple[str, str]]
) -> None:
    """The application's role sees its rows alone, and none of ours; each of its changes is captured."""
    name, url = role("tenant")
    with story.connect() as conn:
        conn.execute(sql.SQL("GRANT SELECT, UPDATE ON public.dateplan TO {}").format(sql.Identifier(name)))
        conn.execute("ALTER TABLE public.dateplan ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY own ON public.dateplan USING (plan_id % 2 = 1)")
    plans = [story.add_plan("Café", f"{i}@example.org") for i in range(4)]
    pgherald("install", check=True)
    with psycopg.connect(url, autocommit=True) as tenant:
        changed = tenant.execute("UPDATE public.dateplan SET status = 'VE' RETURNING id::text").fetchall()
        assert 0 < len(changed) < len(plans)
    assert [(event["key"],) for event in story.events()] == changed
    pgherald("run", "--once", check=True)
    assert len(mail.messages) == len(changed)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--create-roles", repeats("--grant-to")])
def test_the_daemon_as_a_role_of_its_own(
    story: Database,
    mail: MailServer,
    pgherald: Pgherald,
    role: Callable[[str], tuple[str, str]],
    roles: None,
    way: str,
) -> None:
    name, url = role("daemon")
    if way == "--grant-to":
        pgherald("install", "--grant-to", name, check=True)
    else:
        pgherald("install", "--create-roles", check=True)
        story.execute(sql.SQL("GRANT pgherald_daemon TO {}").format(sql.Identifier(name)))
    plans = [story.add_plan("Café", f"{i}@example.org") for i in range(3)]
    as_daemon = {"PGHERALD_DATABASE_URL": url}

    refused = pgherald("run", "--once", env=as_daemon)
    assert refused.returncode == 1
    assert "permission denied for table" in refused.stderr

    story.execute(
        sql.SQL("GRANT SELECT ON public.dateplan, public.users, public.plan TO {}").format(sql.Identifier(name))
    )
    with pgherald.daemon(env=as_daemon) as daemon:
        assert daemon.wait_event("ready")["listening"] is True
        story.verify(*plans)
        mail.wait_for(3)
        wait_until(lambda: {event["state"] for event in story.events()} == {"sent"})
        told = json.loads(pgherald("explain", RULE, plans[0], "--json", env=as_daemon, check=True).stdout)
        assert told["events"][0]["state"] == "sent"
        counts = json.loads(pgherald("status", "--json", env=as_daemon, check=True).stdout)
        assert counts["rules"][RULE]["sent"] == 3

    with psycopg.connect(url, autocommit=True) as conn:
        for statement in (
            "INSERT INTO public.dateplan DEFAULT VALUES",
            "UPDATE public.dateplan SET status = 'PE'",
            "UPDATE public.users SET email_notifications_enabled = true",
            "DELETE FROM public.plan",
            "TRUNCATE public.plan",
            "SELECT pgherald.unwatch('dateplan_verified')",
            "DELETE FROM pgherald.inbox; DELETE FROM pgherald.outbox",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                conn.execute(statement)


def test_a_daemons_role_that_does_not_exist(story: Database, pgherald: Pgherald) -> None:
    done = pgherald("install", "--grant-to", "nobody at all")
    assert done.returncode == 1
    assert 'role "nobody at all" does not exist' in done.stderr
    assert "Traceback" not in done.stderr


def test_two_installs_at_once(story: Database, pgherald: Pgherald) -> None:
    """As when two containers of one deployment start."""
    story.add_plan("Café", "a@example.org", status="VE")
    outcomes: list[Any] = []
    threads = [threading.Thread(target=lambda: outcomes.append(pgherald("install"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(done.returncode, done.stderr) for done in outcomes if done.returncode] == []
    assert story.execute("SELECT key, why FROM pgherald.handled") == [("1", "existing")]


def test_roles_made_at_once_in_two_databases(databases: Databases, story: Database, pgherald: Pgherald) -> None:
    """They are the cluster's, and no lock of one database holds in the other."""
    name = str(story.value("SELECT current_database()")).replace("pgherald_test_", "t")
    roles = resource("sql/roles.sql").read_text(encoding="utf-8")
    for kind in ("owner", "daemon"):
        roles = roles.replace(f"pgherald_{kind}", f"{name}_{kind}")
    with databases.fresh() as other:
        for database in (story, other):
            with database.connect() as conn:
                install_triggers(conn)
        first, second = story.connect(), other.connect(options="-c lock_timeout=20s")
        first.execute("BEGIN")
        first.execute(roles)  # type: ignore[arg-type]
        late = threading.Thread(target=lambda: second.execute(roles))  # type: ignore[arg-type]
        late.start()
        wait_until(
            lambda: story.value(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", (second.info.backend_pid,)
            )
        )
        first.execute("COMMIT")
        late.join()
        owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'pgherald'"
        assert story.value(owner) == other.value(owner) == f"{name}_owner"
        other.execute(sql.SQL(f"DROP OWNED BY {name}_owner, {name}_daemon CASCADE"))  # type: ignore[arg-type]
    story.execute(
        sql.SQL(f"DROP OWNED BY {name}_owner, {name}_daemon CASCADE; DROP ROLE {name}_owner, {name}_daemon")  # type: ignore[arg-type]
    )


def test_a_partition_held_by_somebody_is_named(story: Database) -> None:
    story.execute(
        """CREATE TABLE public.parted (id int PRIMARY KEY, status text) PARTITION BY LIST (id);
           CREATE TABLE public.one PARTITION OF public.parted FOR VALUES IN (1)"""
    )
    with story.connect() as conn:
        install_triggers(conn)
    holder = story.connect()
    holder.execute("BEGIN; INSERT INTO public.one VALUES (1, 'PE')")
    watch = InstallStep("rule parted", "SELECT pgherald.watch('parted', 'public.parted');", table="public.parted")
    said: list[str] = []

    def tell_and_free(text: str) -> None:
        said.append(text)
        holder.execute("COMMIT")

    with story.connect() as conn:
        run(conn, watch, tell_and_free)
    [line] = said
    assert f"waiting for a lock on public.parted, held by pid {holder.info.backend_pid} " in line


def test_what_is_the_owners_says_so(
    story: Database, pgherald: Pgherald, role: Callable[[str], tuple[str, str]]
) -> None:
    name, url = role("daemon")
    pgherald("install", "--grant-to", name, check=True)
    as_daemon = {"PGHERALD_DATABASE_URL": url}
    for command in (("backfill", RULE), ("forget", RULE, "1"), ("purge", "--older-than", "1d")):
        refused = pgherald(*command, env=as_daemon)
        assert refused.returncode == 1
        assert "connect as a member of pgherald_owner" in refused.stderr
        assert "names the GRANT" not in refused.stderr
