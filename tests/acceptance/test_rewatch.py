"""rewatch: the watched column or table changes, the rule goes on, and no email is lost or sent twice."""

from pathlib import Path

import pytest

from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.configuration import configuration, refuses
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
WIDEN = "ALTER TABLE public.dateplan ALTER COLUMN status TYPE varchar(20)"
MISSED = f"pgherald backfill {RULE} --dry-run"


def triggers(database: Database) -> int:
    count: int = database.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.dateplan'::regclass")
    return count


@pytest.fixture
def existing(database: Database, pgherald: Pgherald) -> int:
    """A row that had the value before the rule was watched, as `install` has recorded."""
    database.execute("SELECT pgherald.unwatch('dateplan_verified')")
    plan = database.add_plan("Café", "existing@example.org")
    database.verify(plan)
    pgherald("install", check=True)
    return plan


@pytest.mark.slow
def test_the_watched_column_gets_another_type_under_a_daemon(
    existing: int, database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    """The server refuses it while the triggers exist. Open sessions of the application go on."""
    session = database.connect()
    first, second = (database.add_plan("Café", f"{name}@example.org") for name in ("first", "second"))
    with pgherald.daemon():
        session.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (first,))
        mail.wait_for(1)
        refused = pgherald("rewatch", RULE, "--alter", "ALTER TABLE public.dateplan ALTER status TYPE nonsense")
        assert (refused.returncode, triggers(database)) == (1, 2)
        done = pgherald("rewatch", RULE, "--alter", WIDEN, check=True)
        assert done.stdout == f"{RULE}: watching public.dateplan.status for 'VE'; to look for missed rows: {MISSED}\n"
        session.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (second,))
        mail.wait_for(2)
    assert pgherald("backfill", RULE, check=True).stdout == "0 rows captured\n"
    assert mail.recipients == ["first@example.org", "second@example.org"]


def test_a_paused_rule_stays_paused_and_missed_rows_stay_missed(
    existing: int, database: Database, pgherald: Pgherald
) -> None:
    pgherald("pause", RULE, check=True)
    database.execute("ALTER TABLE public.dateplan DISABLE TRIGGER USER")
    database.verify(database.add_plan("Café", "missed@example.org"))
    before = database.execute("SELECT watched_at, paused_at, snapshot_done FROM pgherald.rule")
    pgherald("rewatch", RULE, "--alter", WIDEN, check=True)
    assert database.execute("SELECT watched_at, paused_at, snapshot_done FROM pgherald.rule") == before
    assert pgherald("backfill", RULE, check=True).stdout == "1 row captured\n"


def test_all_rules_of_the_table_make_room_for_the_change(
    database: Database, pgherald: Pgherald, tmp_path: Path
) -> None:
    file = configuration(tmp_path)
    file.write_text(file.read_text() + file.read_text().replace(RULE + "]", "other]").replace('"""VE"""', '"""AP"""'))
    there = {"PGHERALD_CONFIG": str(file)}
    pgherald("install", check=True, env=there)
    done = pgherald("rewatch", "other", "--alter", WIDEN, check=True, env=there)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [RULE, "other"]
    assert triggers(database) == 4
    assert pgherald("rewatch", "other", check=True, env=there).stdout.count("\n") == 1


@pytest.mark.slow
def test_the_value_of_an_enum_is_renamed(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """The rule is suspended until the configuration has the new name. Then the email of each row is sent."""
    database.execute(
        """SELECT pgherald.unwatch('dateplan_verified'); CREATE TYPE public.kind AS ENUM ('PE', 'VE');
           ALTER TABLE public.dateplan ALTER status DROP DEFAULT, ALTER status TYPE public.kind USING status::public.kind,
                                       ALTER status SET DEFAULT 'PE'"""
    )
    pgherald("install", check=True)
    first, second = (database.add_plan("Café", f"{name}@example.org") for name in ("first", "second"))
    with pgherald.daemon() as daemon:
        database.verify(first)
        mail.wait_for(1)
        database.execute("ALTER TYPE public.kind RENAME VALUE 'VE' TO 'verified'")
        database.execute("UPDATE public.dateplan SET status = 'verified' WHERE id = %s", (second,))
        error = daemon.wait_event("rule_suspended")["error"]
        assert "'VE' is no value of public.kind" in error
        assert f"pgherald rewatch {RULE}" in error
    assert "no value of type public.kind" in pgherald("doctor").stdout
    there = {"PGHERALD_CONFIG": str(configuration(tmp_path, becomes="verified"))}
    pgherald("rewatch", RULE, check=True, env=there)
    pgherald("run", "--once", check=True, env=there)
    assert mail.recipients == ["first@example.org", "second@example.org"]


SWAP = """
    CREATE TABLE public.fresh (LIKE public.dateplan INCLUDING ALL);
    SELECT setval(pg_get_serial_sequence('public.fresh', 'id'), 1000);
    INSERT INTO public.fresh OVERRIDING SYSTEM VALUE TABLE public.dateplan;
    ALTER TABLE public.dateplan RENAME TO dateplan_old; ALTER TABLE public.fresh RENAME TO dateplan
"""


@pytest.mark.slow
@pytest.mark.parametrize("remedy", ["install", repeats("rewatch")])
def test_a_table_was_replaced_by_another_of_its_name(
    existing: int, database: Database, mail: MailServer, pgherald: Pgherald, remedy: str
) -> None:
    """Before, the rows written meanwhile counted as existing from then on, and their emails were lost."""
    seen = database.add_plan("Café", "seen@example.org")
    database.verify(seen)
    meanwhile = database.add_plan("Café", "meanwhile@example.org")
    database.execute(SWAP)
    database.verify(meanwhile)
    assert "pgherald install" in pgherald("doctor").stdout
    pgherald("install", check=True) if remedy == "install" else pgherald("rewatch", RULE, check=True)
    assert triggers(database) == 2
    assert database.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.dateplan_old'::regclass") == 0
    assert pgherald("backfill", RULE, check=True).stdout == "1 row captured\n"
    after = database.add_plan("Café", "after@example.org")
    database.verify(after)
    pgherald("run", "--once", check=True)
    assert sorted(mail.recipients) == ["after@example.org", "meanwhile@example.org", "seen@example.org"]


@pytest.mark.parametrize(
    "alter", ["COMMIT", "ALTER TABLE public.dateplan ADD x int; commit; SELECT 1", "  ", "BEGIN; SELECT 1"]
)
def test_a_statement_that_ends_the_transaction_is_refused(database: Database, pgherald: Pgherald, alter: str) -> None:
    refuses(pgherald, "rewatch", RULE, "--alter", alter, says=("--alter", "remove BEGIN and COMMIT"), status=2)
    assert triggers(database) == 2


@pytest.mark.slow
def test_refused_with_one_line(database: Database, pgherald: Pgherald) -> None:
    refuses(pgherald, "rewatch", "nothing", says=("nothing",), status=2)
    refuses(
        pgherald, "rewatch", RULE, "--alter", "ALTER TABLE dateplan ADD x int",
        says=('relation "dateplan" does not exist', "write each table with its schema, such as public.dateplan"),
    )  # fmt: skip
    refuses(pgherald, "rewatch", RULE, "--alter", "ALTER TABLE", says=(f"rewatch {RULE}: syntax error",))
    refuses(
        pgherald, "rewatch", RULE, "--alter", "ALTER TABLE public.dateplan DROP COLUMN status",
        says=(f'rule "{RULE}": table public.dateplan has no column "status"',),
    )  # fmt: skip
    assert triggers(database) == 2
    database.execute("SELECT pgherald.unwatch('dateplan_verified')")
    refuses(pgherald, "rewatch", RULE, says=("is not watched in this database", "run `pgherald install`"))
