"""An event that the driver cannot read fails alone, with a reason. All others are sent, and each command shows it."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from listener.outbox.event import compress
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.mail import MailServer
from tests.support.web import Client

# By encoding: bytes that it takes for text and that have no spelling in UTF-8, and how they are shown.
BAD = {
    "SQL_ASCII": (b"caf\xe9", r"caf\xe9"),
    "WIN1252": (b"caf\x81", r"caf\x81"),
    "EUC_JP": (b"caf\xf4\xfe", r"caf\xf4\xfe"),
}
RULES = """
[rules.{name}]
table = "public.venue"
key = "name"
becomes = "{value}"
template = "venue"
lookup = "SELECT v.name AS key, v.status AS current, v.email, true AS consent, v.place FROM public.venue v WHERE v.name = ANY (%(keys)s)"
"""


@pytest.fixture(params=["SQL_ASCII", *(pytest.param(name, marks=pytest.mark.slow) for name in ("WIN1252", "EUC_JP"))])
def encoded(databases: Databases, request: pytest.FixtureRequest) -> Iterator[tuple[Database, bytes, str]]:
    with databases.fresh(encoding=request.param) as database:
        database.execute("SET client_encoding = 'UTF8'")
        database.execute("CREATE TABLE public.venue (name text PRIMARY KEY, status text, email text, place text)")
        yield database, *BAD[request.param]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "templates" / "venue"
    folder.mkdir(parents=True)
    (folder / "subject.txt.j2").write_text("Verified: {{ place }}")
    (folder / "body.txt.j2").write_text("{{ place }}")
    file = tmp_path / "pgherald.toml"
    rules = "".join(RULES.format(name=name, value=value) for name, value in (("first", "VE"), ("second", "XX")))
    file.write_text(f'[mail]\ntemplates = "{folder.parent}"\n{rules}')
    return file


def add(database: Database, key: bytes, status: str, place: bytes = b"here") -> None:
    database.execute(
        """INSERT INTO public.venue SELECT convert_from(%s, e), %s, 'a@example.org', convert_from(%s, e)
             FROM CAST(getdatabaseencoding() AS text) AS e""",
        (key, status, place),
    )


def endings(database: Database) -> dict[int, tuple[str, str | None]]:
    return {
        id: (state, reason) for id, state, reason in database.execute("SELECT id, state, reason FROM pgherald.outbox")
    }


def outcomes(database: Database) -> dict[str, tuple[str, str | None]]:
    rows = database.execute("SELECT pgherald.shown(key), state, reason FROM pgherald.outbox ORDER BY id")
    return {key: (state, reason) for key, state, reason in rows}


@pytest.mark.slow
def test_a_key_that_is_not_utf8(
    encoded: tuple[Database, bytes, str], mail: MailServer, pgherald: Pgherald, file: Path
) -> None:
    database, key, shown = encoded
    env = {"PGHERALD_DATABASE_URL": database.url, "PGHERALD_CONFIG": str(file)}
    add(database, b"before" + key, "VE")
    add(database, b"0" * 2500 + key, "VE")
    pgherald("install", env=env, check=True)
    for status in ("VE", "XX"):
        for name in (b"1" + status.encode(), status.encode() + key, b"2" + status.encode()):
            add(database, name, status)
    good = {f"{number}{status}" for number in (1, 2) for status in ("VE", "XX")}
    expected = dict.fromkeys(good, ("sent", None))
    expected |= {f"{status}{shown}": ("failed", "unreadable") for status in ("VE", "XX")}
    with pgherald.daemon(env={**env, "PGHERALD_HTTP_LISTEN": "127.0.0.1:0"}) as daemon:
        wait_until(lambda: outcomes(database) == expected)
        failed = daemon.wait_event("event_failed", rule="second")
        assert (failed["key"], failed["reason"]) == (f"XX{shown}", "unreadable")
        web = Client(daemon)
        assert shown in web.get("/").text
        assert "XX" in web.get(f"/explain?rule=second&key=XX{shown}").text
        assert web.get("/metrics").status == 200
        # And it goes on, here and after a restart.
        add(database, b"3", "VE")
        wait_until(lambda: outcomes(database).get("3") == ("sent", None))
    assert len(mail.messages) == 5

    listed = json.loads(pgherald("events", "list", "--json", env=env, check=True).stdout)
    assert {event["key"] for event in listed} == {*good, "3", f"VE{shown}", f"XX{shown}"}
    assert shown in pgherald("events", "list", "--state", "failed", env=env, check=True).stdout
    pgherald("status", "--json", env=env, check=True)
    told = json.loads(pgherald("explain", "second", f"XX{shown}", "--json", env=env, check=True).stdout)
    [event] = told["events"]
    assert [entry["what"] for entry in event["history"]] == ["captured", "claimed", "failed"]
    assert f"XX{shown}" in event["history"][-1]["detail"]
    done = pgherald("doctor", env=env)
    assert "this is a bug in `doctor`" not in done.stdout

    # Once more, by a person; it fails once more.
    assert (
        "1 event will"
        in pgherald("events", "retry", "second", "--state", "failed", "--yes", env=env, check=True).stdout
    )
    with pgherald.daemon(env=env) as daemon:
        daemon.wait_event("event_failed", rule="second")
        wait_until(lambda: outcomes(database) == {**expected, "3": ("sent", None)})
    assert "1 event forgotten" in pgherald("forget", "second", f"XX{shown}", env=env, check=True).stdout
    assert f"XX{shown}" not in outcomes(database)

    # Backfill finds the missed rows page by page, whatever their keys, and none that was there before the rule.
    database.execute("ALTER TABLE public.venue DISABLE TRIGGER ALL")
    add(database, b"missed" + key, "VE")
    database.execute("ALTER TABLE public.venue ENABLE TRIGGER ALL")
    done = pgherald("backfill", "first", "--dry-run", "--limit", "1", env=env, check=True)
    assert "1 row would be captured" in done.stdout
    assert f"missed{shown}" in done.stdout
    assert "1 row captured" in pgherald("backfill", "first", "--rate", "1", env=env, check=True).stdout
    assert "0 rows captured" in pgherald("backfill", "first", env=env, check=True).stdout
    pgherald("purge", "--older-than", "0s", env=env, check=True)


def test_a_row_of_the_lookup_that_is_not_utf8(
    encoded: tuple[Database, bytes, str], mail: MailServer, pgherald: Pgherald, file: Path
) -> None:
    database, bad, _ = encoded
    env = {"PGHERALD_DATABASE_URL": database.url, "PGHERALD_CONFIG": str(file), "PGHERALD_DELIVERY_MAX_ATTEMPTS": "1"}
    pgherald("install", env=env, check=True)
    for name in (b"1", b"2", b"3"):
        add(database, name, "VE", bad if name == b"2" else b"here")
    pgherald("run", "--once", env=env)
    assert outcomes(database) == {"1": ("sent", None), "2": ("failed", "lookup_error"), "3": ("sent", None)}


MESSAGE = b"Subject: kept\r\n\r\nabc\r\n"
FLAWS = {
    "captured_at = 'infinity'": "unreadable",
    "captured_at = '-infinity'": "unreadable",
    "captured_at = '4000-01-01 BC'": "unreadable",
    "captured_at = '12000-01-01'": "unreadable",
    "key = repeat('9', 30000000)": "too_large",
    "key = 'no number'": "lookup_error",
    "history = '{}'": None,
    "history = '\"x\"'": None,
    "history = 'null'": None,
    'history = \'[1, null, {"at": "never"}, {"what": 3}]\'': None,
    "traceparent = repeat('x', 55)": None,
    "traceparent = repeat('x', 30000000)": None,
    "attempt = 2147483647": None,
    "scheduled_at = '-infinity'": None,
    "scheduled_at = '4000-01-01 BC'": None,
    "in_doubt_count = 1, recipient = 'jane', message = '\\x01'": "unreadable",
    f"in_doubt_count = 1, recipient = 'jane', message = '\\x{compress(b'abc').hex()}'": "bad_address",
    f"in_doubt_count = 1, recipient = 'c@example.org', message = '\\x{compress(MESSAGE).hex()}'": "moved",
    f"in_doubt_count = 1, recipient = 'c@example.org', message = '\\x{zlib.compress(bytes(50_000_000)).hex()}'": "too_large",
    "in_doubt_count = 1, recipient = 'b@example.org', message = ''": "unreadable",
    "in_doubt_count = 1, recipient = 'b@example.org', message = decode(repeat('00', 30000000), 'hex')": "unreadable",
    "in_doubt_count = 1, recipient = repeat('b', 30000000), message = '\\x01'": "unreadable",
    "in_doubt_count = 1, recipient = 'b@example.org', message = NULL": None,
}


@pytest.mark.slow
def test_events_that_somebody_has_edited(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    """Each between two others. Either it can be mailed all the same, or it fails alone."""
    plans = [database.add_plan("Café", f"u{n}@example.org") for n in range(2 * len(FLAWS) + 1)]
    database.verify(*plans)
    expected = {}
    for plan, (flaw, reason) in zip(plans[1::2], FLAWS.items(), strict=True):
        edit = sql.SQL("UPDATE pgherald.outbox SET {} WHERE key = %s RETURNING id").format(sql.SQL(flaw))
        state = "in_doubt" if reason == "moved" else "failed" if reason else "sent"
        expected[database.value(edit, (str(plan),))] = flaw, (state, reason)
    commands: list[list[object]] = [["events", "list"], ["events", "list", "--json"], ["status"], ["status", "--json"]]
    for command in commands:
        pgherald(*command, check=True)
    env = {"PGHERALD_DELIVERY_MAX_ATTEMPTS": "1", "PGHERALD_HTTP_LISTEN": "127.0.0.1:0"}
    with pgherald.daemon(env=env) as daemon:
        client = Client(daemon)
        while not {state for state, _ in endings(database).values()} <= {"sent", "failed", "in_doubt"}:
            assert str(plans[0]) in client.get("/").text
        # All of it is shown, those that failed too.
        wait_until(lambda: "unreadable" in client.get("/").text)
        assert client.get("/metrics").status == 200
        assert "overview_failed" not in {event["event"] for event in daemon.events}
    ended = endings(database)
    assert {flaw: ended.pop(id) for id, (flaw, _) in expected.items()} == dict(expected.values())
    assert set(ended.values()) == {("sent", None)}
    assert set(mail.recipients) >= {f"u{n}@example.org" for n in range(0, len(plans), 2)}
    for command in commands:
        pgherald(*command, check=True)
    told = [
        *database.execute(
            "SELECT key FROM pgherald.outbox WHERE length(key) < 9 AND (captured_at > '9000-01-01' OR history @> '[1]')"
        )
    ]
    assert len(told) == 3
    for (key,) in told:
        pgherald("explain", "dateplan_verified", key, check=True)
