"""A row's key as an operator writes it: unknown, invalid, with leading zeros, and longer than an index entry may be."""

import hashlib
import json
from pathlib import Path

import psycopg
import pytest

from tests.support.command import Pgherald
from tests.support.configuration import refuses
from tests.support.database import Database
from tests.support.mail import MailServer


def test_keys(database: Database, pgherald: Pgherald) -> None:
    there = database.add_plan("Café", "a@example.org")
    assert pgherald("explain", "dateplan_verified", "999999").returncode == 1
    assert pgherald("explain", "dateplan_verified", "no number").returncode == 1
    done = pgherald("explain", "dateplan_verified", there)
    assert done.returncode == 0
    assert "status is 'PE', not 'VE'" in done.stdout


def test_a_key_that_the_lookup_cannot_take(database: Database, pgherald: Pgherald) -> None:
    says = ("dateplan_verified", "key no number", "22P02")
    refuses(pgherald, "preview", "dateplan_verified", "--key", "no number", says=says)


def test_a_key_may_be_written_otherwise(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plan = database.add_plan("Café", "a@example.org")
    database.verify(plan)
    pgherald("run", "--once", check=True)
    database.execute("DELETE FROM public.dateplan")
    told = json.loads(pgherald("explain", "dateplan_verified", f"00{plan}", "--json", check=True).stdout)
    assert [event["state"] for event in told["events"]] == ["sent"]
    assert "1 event forgotten" in pgherald("forget", "dateplan_verified", f"00{plan}", check=True).stdout
    assert "0 events" in pgherald("forget", "dateplan_verified", "no number", check=True).stdout


@pytest.mark.slow
def test_a_key_longer_than_an_index_holds_up_nobody(
    bare_database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    bare_database.execute("CREATE TABLE public.note (slug text NOT NULL, status text)")
    (tmp_path / "pgherald.toml").write_text("""
[rules.note]
table = "public.note"
key = "slug"
column = "status"
becomes = "VE"
template = "dateplan_verified"
lookup = '''SELECT slug AS key, status AS current, left(slug, 5) || '@example.org' AS email, true AS consent, 'x' AS place
              FROM public.note WHERE slug = ANY (%(keys)s)'''
""")
    # Random text, since the server compresses the other kind until it fits into the index.
    older, marked, long = (
        "".join(hashlib.sha256(f"{i} {n}".encode()).hexdigest() for n in range(250)) for i in range(3)
    )
    bare_database.execute("INSERT INTO public.note VALUES (%s, 'VE')", (older,))
    pgherald("install", check=True)
    bare_database.execute("INSERT INTO public.note VALUES (%s, 'VE'), ('short', 'VE')", (long,))
    pgherald("run", "--once", check=True)
    assert sorted(mail.recipients) == sorted(["short@example.org", f"{long[:5]}@example.org"])
    told = pgherald("explain", "note", long, "--json", check=True)
    assert json.loads(told.stdout)["events"][0]["state"] == "sent"

    assert pgherald("purge", "--older-than", "0d", check=True).stdout == "2 events purged\n"
    with psycopg.connect(bare_database.url) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("INSERT INTO public.note VALUES (%s, 'VE')", (marked,))
    assert pgherald("backfill", "note", "--mark-only", check=True).stdout == "1 row marked as handled\n"
    assert pgherald("backfill", "note", check=True).stdout == "0 rows captured\n"
    for key, why in ((older, "before the rule was watched"), (marked, "marked as handled"), (long, "purged")):
        assert why in pgherald("explain", "note", key, check=True).stdout
    bare_database.execute("UPDATE public.note SET status = 'PE'; UPDATE public.note SET status = 'VE'")
    assert pgherald("forget", "note", long, check=True).stdout == "1 event forgotten\n"
    assert "erased" in pgherald("explain", "note", long, check=True).stdout
