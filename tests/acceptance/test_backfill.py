"""backfill captures missed rows once, also after purge and forget."""

import threading
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.support.command import Pgherald
from tests.support.database import STORY, Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"


def missed(database: Database, number: int) -> list[int]:
    """Rows that became 'VE' while no trigger saw it."""
    plans = [database.add_plan("Café", f"missed{i}@example.org") for i in range(number)]
    with psycopg.connect(database.url) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = ANY (%s)", (plans,))
    return plans


def test_what_was_missed_is_mailed_and_nothing_else(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    database.add_plan("Café", "existing@example.org")
    seen = database.add_plan("Café", "seen@example.org")
    database.verify(seen)
    missed(database, 12)
    with pgherald.daemon(env={"PGHERALD_DELIVERY_POLL": "30s"}):
        mail.wait_for(1)
        dry = pgherald("backfill", RULE, "--dry-run", check=True).stdout
        assert dry.startswith("12 rows would be captured\nsuch as ")
        assert pgherald("backfill", RULE, "--limit", 5, check=True).stdout == "5 rows captured\n"
        assert pgherald("backfill", RULE, check=True).stdout == "7 rows captured\n"
        assert pgherald("backfill", RULE, check=True).stdout == "0 rows captured\n"
        mail.wait_for(13)
    assert len(set(mail.recipients)) == 13


@pytest.fixture
def remembered(database: Database, pgherald: Pgherald) -> Database:
    pgherald("install", check=True)
    return database


def test_rows_from_before_stay_out(bare_database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    bare_database.execute("CREATE TABLE users (id bigint PRIMARY KEY, email text, email_notifications_enabled boolean)")
    bare_database.execute("CREATE TABLE plan (id bigint PRIMARY KEY, place text)")
    bare_database.execute("CREATE TABLE dateplan (id bigint PRIMARY KEY, user_id bigint, plan_id bigint, status text)")
    bare_database.execute("INSERT INTO dateplan SELECT g, g, g, 'VE' FROM generate_series(1, 30) AS g")
    pgherald("install", check=True)
    assert pgherald("backfill", RULE).stdout == "0 rows captured\n"
    assert "before the rule was watched" in pgherald("explain", RULE, 1).stdout
    assert pgherald("backfill", RULE, "--include-existing", "--dry-run").stdout.startswith("30 rows")


@pytest.mark.slow
def test_rows_from_before_that_were_mailed_since_and_purged(
    bare_database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    bare_database.execute(STORY)
    plan = bare_database.add_plan("Café", "a@example.org", status="VE")
    pgherald("install", check=True)
    bare_database.execute("UPDATE public.dateplan SET status = 'PE'")
    bare_database.verify(plan)
    pgherald("run", "--once", check=True)
    pgherald("purge", "--older-than", "0d", check=True)
    assert pgherald("backfill", RULE, "--include-existing").stdout == "0 rows captured\n"
    assert "purged" in pgherald("explain", RULE, plan).stdout


@pytest.mark.slow
def test_purged_and_forgotten_rows_stay_handled(remembered: Database, mail: MailServer, pgherald: Pgherald) -> None:
    first, second = missed(remembered, 2)
    pgherald("backfill", RULE, check=True)
    pgherald("run", "--once")
    mail.wait_for(2)
    assert pgherald("forget", RULE, first).stdout == "1 event forgotten\n"
    assert pgherald("purge", "--older-than", "1h").stdout == "0 events purged\n"
    assert pgherald("purge", "--older-than", "0d").stdout == "1 event purged\n"
    assert remembered.events() == []
    assert pgherald("backfill", RULE).stdout == "0 rows captured\n"
    assert "purged" in pgherald("explain", RULE, second).stdout
    assert "erased" in pgherald("explain", RULE, first).stdout


def test_mark_only(remembered: Database, mail: MailServer, pgherald: Pgherald) -> None:
    missed(remembered, 3)
    assert pgherald("backfill", RULE, "--mark-only").stdout == "3 rows marked as handled\n"
    assert pgherald("backfill", RULE).stdout == "0 rows captured\n"


def test_two_at_once_and_the_daemon(remembered: Database, mail: MailServer, pgherald: Pgherald) -> None:
    missed(remembered, 200)
    with pgherald.daemon():
        runs = [threading.Thread(target=pgherald, args=("backfill", RULE, "--rate", "400")) for _ in range(3)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        pgherald("backfill", RULE, check=True)
        mail.wait_for(200)
    assert set(Counter(mail.recipients).values()) == {1}


@pytest.mark.slow
def test_came_back_unseen(remembered: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    remembered.execute("ALTER TABLE public.dateplan ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now()")
    plan = remembered.add_plan("Café", "a@example.org")
    remembered.verify(plan)
    pgherald("run", "--once")
    with psycopg.connect(remembered.url) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("UPDATE public.dateplan SET status = 'PE'")
        conn.execute("UPDATE public.dateplan SET status = 'VE', changed_at = clock_timestamp()")
    assert pgherald("backfill", RULE).stdout == "0 rows captured\n"
    assert pgherald("backfill", RULE, "--since", "2020-01-01").returncode == 2
    file = with_changed_at(tmp_path)
    assert pgherald("--config", file, "backfill", RULE, "--until", "2020-01-01").stdout == "0 rows captured\n"
    assert pgherald("--config", file, "backfill", RULE).stdout.startswith("1 row captured, the oldest changed")
    assert pgherald("--config", file, "backfill", RULE).stdout == "0 rows captured\n"


@pytest.mark.slow
@pytest.mark.parametrize("changed", [None, "infinity", "-infinity"])
def test_when_it_changed_is_not_known(
    remembered: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, changed: str | None
) -> None:
    remembered.add_plan("Café", "existing@example.org", status="VE")
    remembered.verify(remembered.add_plan("Café", "a@example.org"))
    pgherald("install", check=True)
    pgherald("run", "--once")
    missed(remembered, 1)
    remembered.execute("ALTER TABLE public.dateplan ADD COLUMN changed_at timestamptz")
    remembered.execute("UPDATE public.dateplan SET changed_at = %s", (changed,))
    file = with_changed_at(tmp_path)
    assert pgherald("--config", file, "backfill", RULE).stdout == "1 row captured\n"
    pgherald("run", "--once")
    assert pgherald("--config", file, "backfill", RULE).stdout == "0 rows captured\n"


def with_changed_at(folder: Path) -> Path:
    file = folder / "pgherald.toml"
    lookup = (
        "SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place "
        "FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id "
        "WHERE d.id = ANY (%(keys)s::bigint[])"
    )
    file.write_text(
        f'[rules.{RULE}]\ntable = "public.dateplan"\nbecomes = "VE"\ntemplate = "{RULE}"\n'
        f'changed_at = "changed_at"\nlookup = """{lookup}"""\n'
    )
    return file


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_missed_in_a_million(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Of a million rows in the value a hundredth was missed, here and there; those are mailed, each once."""
    with psycopg.connect(database.url) as conn:
        conn.execute(
            """WITH u AS (INSERT INTO public.users (email, email_notifications_enabled)
                          SELECT 'u' || g || '@example.org', true FROM generate_series(1, 1000000) AS g RETURNING id),
                    p AS (INSERT INTO public.plan (place) VALUES ('Café') RETURNING id)
               INSERT INTO public.dateplan (id, user_id, plan_id) OVERRIDING SYSTEM VALUE SELECT u.id, u.id, p.id FROM u, p"""
        )
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id % 100 <> 0")
        conn.commit()
        database.take_over()
        conn.execute("UPDATE pgherald.outbox SET state = 'sent', settled_at = now()")
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id % 100 = 0")
    database.execute("VACUUM ANALYZE")
    took = []
    for options, said in ((["--dry-run"], "10000 rows would be"), ([], "10000 rows captured"), ([], "0 rows captured")):
        began = time.monotonic()
        assert pgherald("backfill", RULE, *options, timeout=900, check=True).stdout.startswith(said)
        took.append(time.monotonic() - began)
    print("dry run {:.1f} s, backfill {:.1f} s, once more {:.1f} s".format(*took))
    pgherald("run", "--once", timeout=900, check=True)
    missed = {email for (email,) in database.execute("SELECT email FROM public.users WHERE id % 100 = 0")}
    assert Counter(mail.recipients) == dict.fromkeys(missed, 1)
    assert len(missed) == 10_000
