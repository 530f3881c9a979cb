"""`--email`: rows named by an address, by the rule's own query. Nothing is stored for it."""

import json
from pathlib import Path

import pytest

from listener.config.rules import default_rules
from tests.support.command import Pgherald
from tests.support.configuration import refuses
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
FIND = """SELECT d.id AS key FROM public.dateplan d JOIN public.users u ON u.id = d.user_id
           WHERE lower(u.email) = lower(%(email)s) AND u.email LIKE '%%@%%' ORDER BY d.id"""


@pytest.fixture(autouse=True)
def configured(pgherald: Pgherald) -> None:
    write(pgherald, FIND)


def write(pgherald: Pgherald, find: str) -> None:
    lookup = default_rules()[RULE].lookup
    Path(pgherald.folder / "pgherald.toml").write_text(
        f"[rules.{RULE}]\ntable = 'public.dateplan'\nbecomes = 'VE'\ntemplate = '{RULE}'\n"
        f"lookup = '''{lookup}'''\nfind = '''{find}'''\n",
        encoding="utf-8",
    )


def rows(database: Database, email: str, count: int) -> list[int]:
    """Return the plans of one user."""
    first = database.add_plan("Café", email)
    more = database.execute(
        "INSERT INTO public.dateplan (user_id, plan_id, status) SELECT user_id, plan_id, 'PE' FROM public.dateplan"
        " CROSS JOIN generate_series(2, %s) WHERE id = %s RETURNING id",
        (count, first),
    )
    return [first, *(row[0] for row in more)]


def test_one_row_is_explained_in_full_and_forgotten(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    [plan] = rows(database, "Jane@example.org", 1)
    database.verify(plan, database.add_plan("Café", "other@example.org"))
    pgherald("run", "--once", check=True)
    by_email = pgherald("explain", RULE, "--email", "jane@EXAMPLE.org", check=True).stdout
    assert by_email == pgherald("explain", RULE, plan, check=True).stdout
    assert pgherald("forget", RULE, "--email", "jane@example.org", check=True).stdout == "1 event of 1 row forgotten\n"
    assert [event["key"] for event in database.events()] == [str(plan + 1)]


@pytest.mark.slow
def test_several_rows_are_listed_and_forgotten_with_yes(
    database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    plans = rows(database, "jane@example.org", 25)
    database.verify(*plans[:2])
    pgherald("run", "--once", check=True)
    done = pgherald("explain", RULE, "--email", "jane@example.org", check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith(f"{RULE} {plans[0]}: event 1: sent, ")
    assert lines[2].startswith(f"{RULE} {plans[2]}: no event; status is 'PE'")
    assert done.stderr == "and 5 more rows have this address; name one with its KEY\n"
    told = json.loads(pgherald("explain", RULE, "--email", "jane@example.org", "--json", check=True).stdout)
    assert (len(told["rows"]), told["more"]) == (20, 5)
    assert (told["rows"][0]["key"], told["rows"][0]["state"], told["rows"][0]["events"]) == (str(plans[0]), "sent", 1)
    says = ("this would forget the events of 25 rows", "--yes")
    refuses(pgherald, "forget", RULE, "--email", "jane@example.org", says=says)
    assert len(database.events()) == 2
    done = pgherald("forget", RULE, "--email", "jane@example.org", "--yes", check=True)
    assert done.stdout == "2 events of 25 rows forgotten\n"
    assert database.events() == []


@pytest.mark.slow
def test_an_address_that_nobody_has(database: Database, pgherald: Pgherald) -> None:
    for command in ("explain", "forget"):
        for email in ("nobody@example.org", "'; DROP TABLE public.users; --", "%s", "\\", "🎉", "x" * 100_000):
            done = pgherald(command, RULE, "--email", email)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"{RULE}: no row has this address\n"
        for email in ("", " ", b"\xff".decode(errors="surrogateescape")):
            done = pgherald(command, RULE, "--email", email)
            assert done.returncode == 2
            assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_names_no_row_is_an_error_of_usage(database: Database, pgherald: Pgherald) -> None:
    for call in (
        ("explain", RULE, "7", "--email", "a@example.org"),
        ("explain", "--email", "a@example.org"),
        ("explain", "--message", "x", "--email", "a@example.org"),
        ("forget", RULE, "7", "--email", "a@example.org"),
        ("forget", RULE),
    ):
        assert pgherald(*call).returncode == 2, call
    write(pgherald, "")
    done = pgherald("explain", RULE, "--email", "a@example.org")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: --email: [rules.{RULE}] find is not set; write a query")


@pytest.mark.parametrize(
    ("find", "says"),
    [
        ("SELECT id FROM public.dateplan WHERE %(email)s <> ''", "returns no column key; write SELECT … AS key"),
        ("SELECT id AS key FROM public.nothing WHERE %(email)s <> ''", 'relation "public.nothing" does not exist'),
        ("SELECT id AS key FROM public.dateplan WHERE id = %(email)s::int", "(SQLSTATE 22P02)"),
        ("SELECT 1 AS key WHERE %(email)s <> ''; SELECT 2", "syntax error"),
        ("UPDATE public.dateplan SET id = id WHERE %(email)s <> '' RETURNING id AS key", "syntax error"),
        ("SELECT nextval('pgherald.outbox_id_seq') AS key WHERE %(email)s <> ''", "read-only transaction"),
    ],
)
def test_a_query_that_fails_is_named(database: Database, pgherald: Pgherald, find: str, says: str) -> None:
    write(pgherald, find)
    done = pgherald("explain", RULE, "--email", "jane@example.org")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: [rules.{RULE}] find: ")
    assert says in done.stderr
    assert "jane" not in done.stderr


@pytest.mark.slow
def test_ten_thousand_rows_and_null_and_the_same_key_twice(database: Database, pgherald: Pgherald) -> None:
    write(
        pgherald,
        "SELECT NULLIF(g, 1) AS key FROM generate_series(1, 9999) AS g WHERE %(email)s <> '' UNION ALL SELECT 2",
    )
    done = pgherald("explain", RULE, "--email", "a@example.org", check=True)
    assert done.stderr == "and 9,978 more rows have this address; name one with its KEY\n"
    write(pgherald, "SELECT g AS key FROM generate_series(1, 10001) AS g WHERE %(email)s <> ''")
    done = pgherald("explain", RULE, "--email", "a@example.org", check=True)
    assert "and 9,980 more rows, or even more have" in done.stderr
    refuses(pgherald, "forget", RULE, "--email", "a@example.org", "--yes", says=("more than 10,000 rows",))
