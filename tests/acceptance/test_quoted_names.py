"""Tables, columns and values whose names only quoting makes possible."""

import json
from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

TABLES = """
    CREATE TYPE public.state AS ENUM ('neu', 'geprüft');
    CREATE SCHEMA "Odd ""one";
    CREATE TABLE "Odd ""one"."Tab'le 5%s" ("Key %" text, "sel""ect" int, "Stätus %s" public.state, PRIMARY KEY ("Key %", "sel""ect"));
    CREATE TABLE public.yes (id uuid PRIMARY KEY, value boolean);
    CREATE TABLE public.five (id int PRIMARY KEY, value numeric(10, 2));
    INSERT INTO "Odd ""one"."Tab'le 5%s" VALUES ('a,b', 1, 'neu'), ('NULL', 2, 'neu'), ('', 3, 'neu'), (E'q"\\\\', 4, 'neu');
    INSERT INTO public.yes VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', false);
    INSERT INTO public.five VALUES (-5, 0)
"""
RULES = """
[rules.odd]
table = '''"Odd ""one"."Tab'le 5%s"'''
key = ['Key %', 'sel"ect']
column = 'Stätus %s'
becomes = 'geprüft'
template = 'dateplan_verified'
lookup = '''SELECT ARRAY["Key %%", "sel""ect"::text] AS key, "Stätus %%s" AS current, 'odd@example.org' AS email, true AS consent, 'x' AS place
              FROM "Odd ""one"."Tab'le 5%%s" WHERE ARRAY["Key %%", "sel""ect"::text]::text = ANY (%(keys)s)'''
[rules.yes]
table = 'public.yes'
column = 'value'
becomes = 't'
template = 'dateplan_verified'
lookup = '''SELECT id AS key, value AS current, 'yes@example.org' AS email, true AS consent, 'x' AS place
              FROM public.yes WHERE id = ANY (%(keys)s::uuid[])'''
[rules.five]
table = 'public."five"'
column = 'value'
becomes = 5
template = 'dateplan_verified'
lookup = '''SELECT id AS key, value::text AS current, 'five@example.org' AS email, true AS consent, 'x' AS place
              FROM public.five WHERE id = ANY (%(keys)s::int[])'''
"""


@pytest.mark.slow
def test_odd_names_and_values(bare_database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    bare_database.execute(TABLES)
    (tmp_path / "pgherald.toml").write_text(RULES)
    pgherald("install", check=True)
    bare_database.execute('UPDATE "Odd ""one"."Tab\'le 5%s" SET "Stätus %s" = \'geprüft\'')
    bare_database.execute("UPDATE public.yes SET value = true")
    bare_database.execute("UPDATE public.five SET value = 5")
    pgherald("run", "--once", check=True)
    mail.wait_for(6)
    assert sorted(set(mail.recipients)) == ["five@example.org", "odd@example.org", "yes@example.org"]

    for rule, key in (
        ("odd", '{"a,b",1}'),
        ("odd", "NULL,2"),
        ("odd", ",3"),
        ("odd", '{"q\\"\\\\",4}'),
        ("yes", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    ):
        told = json.loads(pgherald("explain", rule, key, "--json", check=True).stdout)
        assert [event["state"] for event in told["events"]] == ["sent"], key
    assert "a value with a comma as in an array" in pgherald("explain", "odd", "a,b,1").stderr

    pgherald("purge", "--older-than", "0d", check=True)
    for rule in ("odd", "yes", "five"):
        assert "To: " in pgherald("preview", rule, check=True).stdout
        assert pgherald("backfill", rule, "--dry-run", check=True).stdout.startswith("0 rows")
    assert "purged" in pgherald("explain", "five", "-5", check=True).stdout
    assert pgherald("forget", "five", "-5", check=True).stdout == "0 events forgotten\n"
    assert pgherald("explain", "five", "-5", "--jsn").returncode == 2
