"""A pooler between the daemon and the primary, and a standby that takes no writes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Literal

import psycopg
import pytest

from listener.db.connection import connect, connect_async
from listener.db.pooler import is_shared
from listener.demo.cluster import Cluster
from listener.errors import DatabaseUnavailable
from tests.support import repeats, wait_until
from tests.support.backlog import add_plans, doubted, most_lines_a_second, times_each, wait_sent
from tests.support.command import Pgherald
from tests.support.database import Database, fill_with_story
from tests.support.mail import MailServer
from tests.support.network import Network
from tests.support.pgbouncer import PgBouncer
from tests.support.smtpd import wait
from tests.support.standby import Standby

NO_POLL = {"PGHERALD_DELIVERY_POLL": "60s"}
_ADVISORY = """
    SELECT classid::int, objid::int FROM pg_locks
     WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     ORDER BY 1, 2"""


@pytest.fixture
def bouncer(database: Database) -> Iterator[PgBouncer]:
    with PgBouncer(database.url) as bouncer:
        yield bouncer


def left_behind(bouncer: PgBouncer) -> list[tuple[str, ...]]:
    """Return the settings and locks that a daemon left in the pooled sessions, for the next client to find."""
    found: list[tuple[str, ...]] = []
    connections = bouncer.sessions()
    assert len({conn.execute("SELECT pg_backend_pid()").fetchone() for conn in connections}) == bouncer.size
    for conn in connections:
        found += conn.execute(
            """SELECT 'setting', name FROM pg_settings WHERE source = 'session' AND name <> 'application_name'
                UNION ALL SELECT 'prepared', name FROM pg_prepared_statements
                UNION ALL SELECT 'listens', channel FROM pg_listening_channels() AS channel"""
        ).fetchall()
        conn.close()
    return found


@pytest.mark.slow
def test_through_a_pooler_alone_it_says_so_and_polls(
    database: Database, mail: MailServer, pgherald: Pgherald, bouncer: PgBouncer
) -> None:
    before = left_behind(bouncer)
    with pgherald.daemon(env={**NO_POLL, "PGHERALD_DATABASE_URL": bouncer.url}) as daemon:
        said = daemon.wait_event("not_listening", pooled=True)
        assert "database.listen_url" in said["remedy"]
        assert daemon.wait_event("ready")["listening"] is False
        for turn in range(1, 4):
            database.verify(database.add_plan("Café", f"a{turn}@example.org"))
            mail.wait_for(turn)
        assert database.execute(_ADVISORY) == []
        database.verify(*add_plans(database, 2000))
        wait_sent(database, 2003, 60)
        assert database.execute("SELECT has_presence_lock, listening FROM pgherald.worker") == [(False, False)]
        # It looks again whether it can listen, and need not say again that it cannot.
        tried = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        assert database.value(tried) == 0
        assert left_behind(bouncer) == before
        assert most_lines_a_second(daemon) <= 2
    assert times_each([mail]) == {1: 2003}
    assert left_behind(bouncer) == before
    assert database.execute(_ADVISORY) == []


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.slow
async def test_each_statement_brings_its_path_and_leaves_none_behind(
    database: Database, mode: Literal["transaction", "session"]
) -> None:
    """In a schema that all may write to lies a better fit; a setting of the session would be missing in the next one."""
    name = database.value("SELECT current_database()")
    database.execute(
        f"""CREATE FUNCTION public.concat(integer, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'planted' $$;
            ALTER DATABASE {name} SET search_path = public, pg_catalog;
            ALTER DATABASE {name} SET default_transaction_isolation = serializable"""
    )
    seen = """SELECT concat(4, 2), current_setting('search_path'), current_setting('transaction_isolation'),
                     current_setting('row_security')"""
    pinned = ("42", "pg_catalog, pg_temp", "read committed", "off")
    with PgBouncer(database.url, mode=mode) as bouncer:
        with connect(bouncer.url) as conn:
            assert {conn.execute(seen).fetchone() for _ in range(10)} == {pinned}
            with conn.transaction():
                assert (conn.execute(seen).fetchone() or ())[:3] == pinned[:3]
        async with await connect_async(bouncer.url) as other:
            for _ in range(10):
                assert await (await other.execute(seen)).fetchone() == pinned
        for stranger in bouncer.sessions():
            assert stranger.execute(seen).fetchone() == ("planted", "public, pg_catalog", "serializable", "on")
            stranger.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.slow
async def test_whether_sessions_are_lent_out_is_known_however_busy_the_pooler_is(
    database: Database, mode: Literal["transaction", "session"]
) -> None:
    with PgBouncer(database.url, mode) as bouncer:

        async def work() -> None:
            async with await connect_async(bouncer.url) as conn:
                conn.prepare_threshold = None
                while True:
                    await conn.execute("SELECT 1")

        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(work()) for _ in range(5)]
            answers = set()
            for _ in range(30):
                async with await connect_async(bouncer.url) as conn:
                    conn.prepare_threshold = None
                    answers.add(await is_shared(conn, bouncer.url))
            for other in others:
                other.cancel()
    assert answers == {mode == "transaction"}


@pytest.mark.slow
def test_with_a_direct_connection_for_listen_it_works_in_full(
    database: Database, mail: MailServer, pgherald: Pgherald, bouncer: PgBouncer
) -> None:
    before = left_behind(bouncer)
    env = {**NO_POLL, "PGHERALD_DATABASE_URL": bouncer.url, "PGHERALD_DATABASE_LISTEN_URL": database.url}
    with pgherald.daemon(env=env) as daemon:
        assert daemon.wait_event("ready")["listening"] is True
        daemon.wait_event("leading")
        for turn in range(1, 4):
            # It sleeps behind the gate, and shows that it lives.
            wait_until(lambda: [kind for kind, _ in database.execute(_ADVISORY)] == [726354, 726354, 726355])
            database.verify(database.add_plan("Café", f"a{turn}@example.org"))
            mail.wait_for(turn)
        database.verify(*add_plans(database, 2000))
        wait_sent(database, 2003, 60)
        assert left_behind(bouncer) == before
    assert times_each([mail]) == {1: 2003}
    assert [event for event in daemon.events if event["event"] == "not_listening"] == []


@pytest.mark.slow
def test_through_a_pooler_that_lends_nothing_out_it_works_in_full(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    with (
        PgBouncer(database.url, "session") as bouncer,
        pgherald.daemon(env={**NO_POLL, "PGHERALD_DATABASE_URL": bouncer.url}) as daemon,
    ):
        assert daemon.wait_event("ready")["listening"] is True
        for turn in range(1, 4):
            wait_until(lambda: [kind for kind, _ in database.execute(_ADVISORY)] == [726354, 726354, 726355])
            database.verify(database.add_plan("Café", f"a{turn}@example.org"))
            mail.wait_for(turn)


@pytest.mark.slow
def test_two_behind_a_pooler_share_and_one_takes_over_when_the_others_lease_is_over(
    database: Database, mail: MailServer, pgherald: Pgherald, bouncer: PgBouncer
) -> None:
    mail.script("dot", wait(0.02))
    env = {"PGHERALD_DATABASE_URL": bouncer.url, "PGHERALD_DELIVERY_LEASE": "2s"}
    with pgherald.daemon(env=env) as dying, pgherald.daemon(env=env) as other:
        database.verify(*add_plans(database, 3000))
        senders = "SELECT count(DISTINCT claimed_by) FROM pgherald.outbox WHERE state = 'sent'"
        wait_until(lambda: database.value(senders) == 2)
        dying.kill()
        dead = time.time()
        other.wait_event("workers_rescued")
        print(f"taken over {time.time() - dead:.2f} s after the death")
        assert time.time() - dead < 10
        wait_sent(database, 3000)
    # Those it had marked came into doubt with it, and were sent once more.
    sent = times_each([mail])
    assert set(sent) <= {1, 2}
    assert sent[2] <= doubted(database) <= 16


@pytest.mark.slow
def test_a_pooler_that_is_restarted(
    database: Database, mail: MailServer, pgherald: Pgherald, bouncer: PgBouncer
) -> None:
    env = {**NO_POLL, "PGHERALD_DATABASE_URL": bouncer.url, "PGHERALD_DATABASE_LISTEN_URL": database.url}
    with pgherald.daemon(env=env) as daemon:
        bouncer.stop()
        database.verify(database.add_plan("Café", "a@example.org"))
        for name in ("lease_renewal_failed", "database_unavailable"):
            daemon.wait_event(name)
        bouncer.start()
        mail.wait_for(1)
        wait_sent(database, 1)


@pytest.mark.slow
def test_on_a_standby_it_says_so_and_goes_on_when_that_is_promoted(
    cluster: Cluster, mail: MailServer, pgherald: Pgherald
) -> None:
    fill_with_story(cluster.dsn())
    primary = Database(cluster.dsn())
    primary.verify(primary.add_plan("Café", "a@example.org"))
    with Standby(cluster) as standby:
        with pgherald.daemon(ready=False, env={**NO_POLL, "PGHERALD_DATABASE_URL": standby.dsn()}) as daemon:
            error = daemon.wait_event("database_unavailable")["error"]
            assert "standby" in error
            assert "promoted" in error
            primary.close()
            cluster.stop()
            assert mail.messages == []
            standby.promote()
            promoted = time.time()
            assert daemon.wait_event("ready")["listening"] is True
            [received] = mail.wait_for(1)
            print(f"first mail {received.at - promoted:.2f} s after the promotion")
            there = Database(standby.dsn())
            there.verify(there.add_plan("Café", "b@example.org"))
            mail.wait_for(2)
            assert most_lines_a_second(daemon) <= 2
            there.close()
        done = pgherald("run", "--once", env={"PGHERALD_DATABASE_URL": standby.dsn()})
        assert done.returncode == 0


def test_once_on_a_standby_is_an_error_that_says_so(cluster: Cluster, pgherald: Pgherald) -> None:
    fill_with_story(cluster.dsn())
    with Standby(cluster) as standby:
        done = pgherald("run", "--once", env={"PGHERALD_DATABASE_URL": standby.dsn()})
    assert done.returncode == 1
    assert "connected to a standby" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_where_listen_leads_to_a_standby_it_polls_the_primary(
    cluster: Cluster, mail: MailServer, pgherald: Pgherald
) -> None:
    fill_with_story(cluster.dsn())
    primary = Database(cluster.dsn())
    with Standby(cluster) as standby:
        env = {**NO_POLL, "PGHERALD_DATABASE_URL": primary.url, "PGHERALD_DATABASE_LISTEN_URL": standby.dsn()}
        with pgherald.daemon(env=env) as daemon:
            assert "standby" in daemon.wait_event("listen_connect_failed")["error"]
            for turn in range(1, 3):
                primary.verify(primary.add_plan("Café", f"a{turn}@example.org"))
                mail.wait_for(turn)
            wait_sent(primary, 2)
            assert most_lines_a_second(daemon) <= 2
    primary.close()


@pytest.fixture
def lagging(cluster: Cluster) -> Iterator[tuple[Database, Standby]]:
    """A primary with the story, and a standby that has not replayed what happens from now on."""
    fill_with_story(cluster.dsn())
    primary = Database(cluster.dsn())
    with Standby(cluster) as standby:
        with connect_any(standby.dsn()) as conn:
            conn.execute("SELECT pg_wal_replay_pause()")
        yield primary, standby
    primary.close()


def connect_any(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True)


@pytest.mark.parametrize("way", [repeats("a pooler"), repeats("any server"), "a name"])
def test_lookups_that_reach_a_lagging_standby_skip_nothing(
    lagging: tuple[Database, Standby], mail: MailServer, pgherald: Pgherald, way: str
) -> None:
    """The standby does not have the event's row yet, or has its old value. The event would be skipped for ever."""
    primary, standby = lagging
    with ExitStack() as stack:
        network = stack.enter_context(Network(primary.url))
        network.spread(standby.dsn())
        url = network.url
        if way == "a pooler":
            # The session's own check is of no use: each transaction may run on the other server.
            url = stack.enter_context(PgBouncer(network.url, size=1)).url
        elif way == "any server":
            url += "?target_session_attrs=any"
        env = {"PGHERALD_DATABASE_URL": primary.url, "PGHERALD_DATABASE_LOOKUP_URL": url}
        daemon = stack.enter_context(pgherald.daemon(env=env))

        def refused() -> list[str]:
            said = (event["error"] for event in daemon.events if event["event"] == "database_unavailable")
            return [error for error in said if "standby" in error]

        turn = waits = 0
        while turn < 8 or not refused():
            turn += 1
            primary.verify(primary.add_plan("Café", f"a{turn}@example.org"))
            while len(mail.messages) < turn:
                waits += 1
                assert waits < 100, f"{turn} messages were expected, came: {mail.recipients}"
                # The next session leads to the other server.
                network.reset()
                with suppress(AssertionError):
                    mail.wait_for(turn, timeout=0.5)
        wait_sent(primary, turn)
        if way != "a name":
            assert any("point [database] lookup_url, or url, at the primary" in error for error in refused())
        assert most_lines_a_second(daemon) <= 2
    assert times_each([mail]) == {1: turn}
    assert {event["attempt"] for event in primary.events()} == {1}


def test_a_command_that_reads_as_the_owner_refuses_a_standby(
    lagging: tuple[Database, Standby], pgherald: Pgherald
) -> None:
    primary, standby = lagging
    key = primary.add_plan("Café", "a@example.org", status="VE")
    primary.execute("CREATE ROLE owner; ALTER TABLE public.dateplan OWNER TO owner")
    with connect_any(standby.dsn()) as conn:
        conn.execute("SELECT pg_wal_replay_resume()")
        wait_until(lambda: conn.execute("SELECT FROM pg_tables WHERE tableowner = 'owner'").fetchone() is not None)
    env = {"PGHERALD_DATABASE_URL": primary.url}
    for url in (standby.dsn(), f"{standby.dsn()}?target_session_attrs=any"):
        done = pgherald("preview", "dateplan_verified", "--key", key, env={**env, "PGHERALD_DATABASE_LOOKUP_URL": url})
        assert done.returncode == 1
        assert "standby" in done.stderr.splitlines()[-1]


async def test_of_several_hosts_the_primary_is_taken(lagging: tuple[Database, Standby]) -> None:
    primary, standby = lagging
    login, _, place = primary.url.rpartition("@")
    hosts = f"{login}@127.0.0.1:{standby.port},{place}"
    with connect(hosts) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    async with await connect_async(hosts) as other:
        assert await (await other.execute("SELECT pg_is_in_recovery()")).fetchone() == (False,)
    with pytest.raises(DatabaseUnavailable, match="connected to a standby; waiting for it to be promoted"):
        connect(standby.dsn())
    with connect(f"{standby.dsn()}?target_session_attrs=any") as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
