"""`pgherald init` on tables of other shapes: its file loads, doctor is content, and an email arrives."""

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener.db.install import daemon_grants
from listener.doctor import server
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.database import Database, Databases
from tests.support.doctor import HEALTHY, as_role
from tests.support.mail import MailServer

# The status in one table, the consent in another, the addresses in a third.
PROFILE = """
    CREATE SCHEMA people; CREATE SCHEMA shop;
    CREATE TABLE people.member (id uuid PRIMARY KEY, nickname text);
    CREATE TABLE people.contact (id bigint PRIMARY KEY, email text NOT NULL,
        member_id uuid NOT NULL UNIQUE REFERENCES people.member);
    CREATE TABLE public.preferences (member_id uuid PRIMARY KEY REFERENCES people.member, wants_email boolean NOT NULL,
        newsletter boolean NOT NULL);
    CREATE TABLE people.device (id bigint PRIMARY KEY, member_id uuid REFERENCES people.member, push_notifications boolean);
    INSERT INTO people.member SELECT md5(n::text)::uuid, 'member ' || n FROM generate_series(1, 3) AS n;
    INSERT INTO people.contact SELECT row_number() OVER (ORDER BY nickname), replace(nickname, ' ', '') || '@example.org', id
      FROM people.member;
    INSERT INTO public.preferences SELECT id, nickname <> 'member 2', false FROM people.member;
    CREATE TABLE shop.booking (id bigint PRIMARY KEY, member_id uuid REFERENCES people.member, {state});
    INSERT INTO shop.booking (id, member_id) SELECT row_number() OVER (ORDER BY nickname), id FROM people.member;
"""
# As django-allauth makes it: one primary address a user, verified or not. The address in the user's row is an old one.
ALLAUTH = """
    CREATE SCHEMA shop;
    CREATE TABLE public.auth_user (id int PRIMARY KEY, email varchar(254) NOT NULL, email_notifications boolean NOT NULL);
    CREATE TABLE public.account_emailaddress (id int PRIMARY KEY, email varchar(254) NOT NULL, verified boolean NOT NULL,
        "primary" boolean NOT NULL, user_id int NOT NULL REFERENCES public.auth_user, UNIQUE (user_id, email));
    CREATE UNIQUE INDEX unique_primary_email ON public.account_emailaddress (user_id, "primary") WHERE "primary";
    INSERT INTO public.auth_user VALUES (1, 'old1@example.org', true), (2, 'old2@example.org', false),
        (3, 'old3@example.org', true), (4, 'old4@example.org', true), (5, 'old5@example.org', true);
    INSERT INTO public.account_emailaddress VALUES (1, 'member1@example.org', true, true, 1),
        (2, 'second@example.org', true, false, 1), (3, 'member2@example.org', true, true, 2),
        (4, 'Member3@Example.org', true, true, 3), (5, 'unverified@example.org', false, true, 4),
        (6, 'secondary@example.org', true, false, 5);
    CREATE TABLE shop.booking (id bigint PRIMARY KEY, user_id int REFERENCES public.auth_user, {state});
    INSERT INTO shop.booking (id, user_id) SELECT id, id FROM public.auth_user;
"""
STATUS = "status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'confirmed'))"

Grant = Callable[[str], dict[str, str]]


def make(database: Database, tables: str) -> None:
    with database.connect() as conn:
        conn.execute(tables)  # type: ignore[call-overload]


def written(pgherald: Pgherald) -> tuple[str, dict[str, Any]]:
    """The file, and its only rule with the name."""
    text = (pgherald.folder / "pgherald.toml").read_text()
    [(name, rule)] = tomllib.loads(text)["rules"].items()
    return text, {"name": name, **rule}


@pytest.fixture
def grant(databases: Databases, bare_database: Database) -> Iterator[Grant]:
    """Do as the file says, for a role that has the name of no other test's: the environment that connects as it."""
    name = f"{databases.run}_kinds_{os.getpid()}"
    who = sql.Identifier(name)
    bare_database.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(who))

    def run(text: str) -> dict[str, str]:
        lines = re.findall(r"^#   (GRANT .* TO )pgherald_daemon;$", text, re.MULTILINE)
        assert len(lines) == 2
        for line in [*(f"{line}pgherald_daemon" for line in lines), daemon_grants()]:
            bare_database.execute(sql.SQL(line.replace("pgherald_daemon", name)))  # type: ignore[arg-type]
        bare_database.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(who))
        return {"PGHERALD_DATABASE_URL": as_role(bare_database, name)}

    yield run
    bare_database.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(who))
    bare_database.execute(sql.SQL("DROP ROLE {}").format(who))


def assert_healthy(database: Database, pgherald: Pgherald, env: dict[str, str]) -> None:
    """No daemon runs, and the release of the tests' server may be one with a known fault."""
    major, minor = divmod(database.value("SELECT current_setting('server_version_num')::integer"), 10000)
    release = {"server"} if minor < server.FIXED_MINOR.get(major, 0) else set()
    findings = json.loads(pgherald("doctor", "--json", env=env, check=True).stdout)
    found = {each["check"]: f"{each['seen']} -> {each['remedy']}" for each in findings if each["state"] != "ok"}
    assert found.keys() == HEALTHY | release, found


def addresses(database: Database, rule: dict[str, Any]) -> dict[int, str | None]:
    """What the lookup says of every row."""
    keys = [str(key) for (key,) in database.execute(sql.SQL("SELECT id FROM {}").format(sql.SQL(rule["table"])))]
    with database.connect(row_factory=psycopg.rows.dict_row) as conn:
        rows: Any = conn.execute(rule["lookup"], {"keys": keys}).fetchall()
    assert len(rows) == len(keys)
    return {row["key"]: row["email"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("tables", [PROFILE, repeats(ALLAUTH)], ids=["profile", "allauth"])
def test_three_tables(bare_database: Database, mail: MailServer, pgherald: Pgherald, grant: Grant, tables: str) -> None:
    make(bare_database, tables.replace("{state}", STATUS))
    said = pgherald("init", "--becomes", "confirmed", check=True)
    assert said.stderr == ""
    text, rule = written(pgherald)
    assert (rule["name"], rule["table"], rule["template"]) == ("booking_confirmed", "shop.booking", "booking_confirmed")
    pgherald("install", check=True)
    env = grant(text)
    assert_healthy(bare_database, pgherald, env)
    assert "booking_confirmed: 1 is now " in pgherald("preview", rule["name"], "--key", "1", env=env, check=True).stdout
    bare_database.execute("UPDATE shop.booking SET status = 'confirmed'")
    pgherald("run", "--once", env=env, check=True)
    assert sorted(each.lower() for each in mail.recipients) == ["member1@example.org", "member3@example.org"]
    reasons = [event["reason"] for event in bare_database.events() if event["state"] != "sent"]
    # Of allauth's users, one has no verified primary address, and one no primary one.
    assert sorted(reasons) == (["no_consent"] if tables == PROFILE else ["no_consent", "no_recipient", "no_recipient"])


@pytest.mark.parametrize("tables", [PROFILE, ALLAUTH], ids=["profile", "allauth"])
def test_find_leads_back_from_each_address(bare_database: Database, pgherald: Pgherald, tables: str) -> None:
    make(bare_database, tables.replace("{state}", STATUS))
    pgherald("init", "--becomes", "confirmed", check=True)
    _, rule = written(pgherald)
    known = addresses(bare_database, rule)
    assert len([each for each in known.values() if each]) == 3
    for key, address in known.items():
        if address is not None:
            for spelt in (address, address.upper()):
                assert bare_database.execute(rule["find"], {"email": spelt}) == [(key,)]
    for nobody in ("second@example.org", "old1@example.org", "x' OR true --", "%"):
        assert bare_database.execute(rule["find"], {"email": nobody}) == []


@pytest.mark.parametrize(
    ("state", "name", "complete", "change"),
    [
        ("is_verified boolean NOT NULL DEFAULT false", "booking_verified", "", "is_verified = true"),
        repeats("paid_at timestamptz", "booking_paid", "", "paid_at = now()"),
        repeats(
            "status smallint NOT NULL DEFAULT 0 CHECK (status IN (0, 1, 2))",
            "booking_changed",
            "new.status = 2",
            "status = 2",
        ),
        repeats("paid_at timestamptz, is_shipped boolean", "booking_changed", "new.is_shipped", "is_shipped = true"),
    ],
    ids=["boolean", "time", "number", "several"],
)
def test_a_state_that_is_no_text(
    bare_database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    grant: Grant,
    state: str,
    name: str,
    complete: str,
    change: str,
) -> None:
    make(bare_database, PROFILE.replace("{state}", state))
    done = pgherald("init")
    assert (done.returncode == 1) is bool(complete), done.stderr
    if complete:
        assert "could not decide when: " in done.stderr
        file = pgherald.folder / "pgherald.toml"
        assert pgherald("install").returncode == 1
        file.write_text(re.sub(r"^when = .*CHANGE_ME.*$", f'when = "{complete}"', file.read_text(), flags=re.MULTILINE))
    text, rule = written(pgherald)
    assert rule["name"] == name
    pgherald("install", check=True)
    env = grant(text)
    assert_healthy(bare_database, pgherald, env)
    bare_database.execute(sql.SQL(f"UPDATE shop.booking SET {change}"))  # type: ignore[arg-type]
    bare_database.execute("UPDATE shop.booking SET member_id = member_id")
    pgherald("run", "--once", env=env, check=True)
    assert sorted(mail.recipients) == ["member1@example.org", "member3@example.org"]
    assert sorted((event["state"], event["reason"]) for event in bare_database.events()) == [
        ("sent", None), ("sent", None), ("skipped", "no_consent"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "known"),
    [
        repeats("status text DEFAULT 'open'", "status is open in the rows that were read, and no CHECK or enum"),
        (STATUS, "status is one of open, confirmed (its CHECK)"),
        repeats("status people.progress DEFAULT 'open'", "status is one of open, confirmed (its type)"),
        repeats("status people.checked DEFAULT 'open'", "status is one of open, confirmed (its CHECK)"),
        repeats("status text", "status is described by no CHECK or enum, and no row that this role can read has"),
    ],
    ids=["rows", "check", "enum", "domain", "nothing"],
)
def test_a_value_is_left_to_the_operator(bare_database: Database, pgherald: Pgherald, status: str, known: str) -> None:
    types = """CREATE TYPE people.progress AS ENUM ('open', 'confirmed');
               CREATE DOMAIN people.checked AS text CHECK (VALUE IN ('open', 'confirmed'));"""
    make(
        bare_database, PROFILE.replace("{state}", status).replace("CREATE SCHEMA shop;", f"CREATE SCHEMA shop; {types}")
    )
    done = pgherald("init")
    assert (done.returncode, "VE" in done.stderr) == (1, False)
    assert f"could not decide becomes: {known}" in done.stderr
    text, rule = written(pgherald)
    assert rule["becomes"] == "CHANGE_ME"
    assert f"# CHANGE_ME: {known}" in text
    for command in (["install"], ["run", "--once"], ["doctor"], ["preview", rule["name"]]):
        refused = pgherald(*command)
        assert refused.returncode == (78 if command[0] == "run" else 1)
        assert refused.stderr == (
            "Error: pgherald.toml: [rules.booking_changed] becomes: CHANGE_ME marks what `pgherald init` could not decide; "
            "replace it as the comment there says\n"
        )
    assert bare_database.value("SELECT to_regnamespace('pgherald')") is None
    pgherald("init", "--force", "--becomes", "confirmed", check=True)
    pgherald("install", check=True)
