"""The commands know the person of an event: what is done to one does not touch another."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from listener.bounces.record import record
from listener.bounces.report import BounceClass, Report
from listener.config.rules import Rule
from listener.db.pools import bounce_pool, opened, statement_pool
from listener.db.schema import read_secret
from listener.mail.unsubscribe import Subscription, make_token, signing_key
from tests.support.command import Pgherald
from tests.support.configuration import RULE as KEYS
from tests.support.configuration import configuration, refuses
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.people import LOOKUP, add_person, add_plan, invite, with_people
from tests.support.web import ANY_PORT, Client

RULE = "dateplan_verified"
_WITHDRAW = "UPDATE public.users SET email_notifications_enabled = false WHERE id = %(person)s::bigint AND %(keys)s::bigint[] IS NOT NULL"


def sent(database: Database, pgherald: Pgherald, config: Path, *names: str) -> tuple[int, list[int]]:
    """Tell these people of one plan; return its key, and their ids."""
    people = [add_person(database, name) for name in names]
    plan = add_plan(database, *people)
    database.verify(plan)
    assert pgherald("run", "--once", "--config", config).returncode == 0
    return plan, people


def persons(database: Database) -> list[str | None]:
    return [event["person"] for event in database.events()]


def listed(pgherald: Pgherald, config: Path, *options: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        pgherald("events", "list", RULE, "--json", *options, "--config", config, check=True).stdout
    )
    return found


@pytest.mark.slow
def test_list_explain_forget_and_purge(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    plan, (a, b) = sent(database, pgherald, config, "a", "b")
    assert [event["person"] for event in listed(pgherald, config)] == [str(a), str(b)]
    assert [event["person"] for event in listed(pgherald, config, "--key", plan, "--person", b)] == [str(b)]
    assert f"{plan} for {b}" in pgherald("events", "list", RULE, "--config", config, check=True).stdout
    explained = json.loads(pgherald("explain", RULE, plan, "--json", "--config", config, check=True).stdout)
    assert [event["person"] for event in explained["events"]] == [str(a), str(b)]
    assert pgherald("forget", RULE, plan, "--person", a, "--config", config, check=True).stdout == "1 event forgotten\n"
    assert persons(database) == [str(b)]
    # The row counts as handled, whichever of its people was forgotten.
    assert pgherald("backfill", RULE, "--config", config, check=True).stdout == "0 rows captured\n"
    assert pgherald("forget", RULE, plan, "--config", config, check=True).stdout == "1 event forgotten\n"
    assert pgherald("backfill", RULE, "--config", config, check=True).stdout == "0 rows captured\n"


@pytest.mark.slow
def test_a_missed_row_is_captured_for_all_its_people(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    plan = add_plan(database, *(add_person(database, name) for name in "ab"))
    with psycopg.connect(database.url) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("UPDATE public.dateplan SET status = 'VE' WHERE id = %s", (plan,))
    assert pgherald("backfill", RULE, "--config", config, check=True).stdout == "1 row captured\n"
    assert pgherald("run", "--once", "--config", config).returncode == 0
    assert sorted(mail.recipients) == ["a@example.org", "b@example.org"]
    assert pgherald("backfill", RULE, "--config", config, check=True).stdout == "0 rows captured\n"


@pytest.mark.slow
def test_preview_and_send_test_show_one_person(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    config = with_people(database, tmp_path)
    a, b = add_person(database, "a"), add_person(database, "b")
    plan = add_plan(database, a, b)
    database.verify(plan)
    assert "a@example.org" in pgherald("preview", RULE, "--key", plan, "--config", config, check=True).stdout
    shown = pgherald("preview", RULE, "--key", plan, "--person", b, "--config", config, check=True).stdout
    assert "b@example.org" in shown
    pgherald("send-test", "--to", "me@example.org", "--rule", RULE, "--key", plan, "--person", b, "--config", config, check=True)  # fmt: skip
    assert mail.recipients == ["me@example.org"]
    refuses(pgherald, "preview", RULE, "--key", plan, "--person", 99, "--config", config, says=("no person 99", str(a)))
    refuses(pgherald, "preview", RULE, "--person", b, "--config", config, says=("--person requires",), status=2)


@pytest.mark.slow
def test_one_person_unsubscribes_and_one_bounces(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """The links and reports of one person change nothing of another."""
    rest = '[http]\npublic_url = "https://mail.example.org"'
    config = with_people(database, tmp_path, rest, unsubscribe=_WITHDRAW, bounced=_WITHDRAW)
    plan, (a, b, c) = sent(database, pgherald, config, "a", "b", "c")
    links = {message.recipient: message.email["List-Unsubscribe"] for message in mail.messages}
    assert len(set(links.values())) == 3
    secret = read_secret(database.connect())
    path = links["a@example.org"].partition("https://mail.example.org")[2].partition(">")[0]
    assert path == f"/unsubscribe/{make_token(signing_key(secret), Subscription(RULE, str(plan), '', str(a)))}"
    before = make_token(signing_key(secret), Subscription(RULE, str(plan)))
    with pgherald.daemon("--config", str(config), env=ANY_PORT) as daemon:
        client = Client(daemon)
        assert client.post(path, "List-Unsubscribe=One-Click", Host="mail.example.org").status == 200
        # A link from before the rule had `each` names nobody, and must not say that it worked.
        assert (
            client.post(f"/unsubscribe/{before}", "List-Unsubscribe=One-Click", Host="mail.example.org").status == 503
        )
        assert "each" in daemon.wait_event("unsubscribe_failed")["error"]
    assert consents(database) == {a: False, b: True, c: True}
    [identifier] = [each.email["Message-ID"] for each in mail.messages if each.recipient == "b@example.org"]
    rules = {RULE: Rule.model_validate({**KEYS, "lookup": LOOKUP, "each": "person", "bounced": _WITHDRAW})}

    async def report() -> str:
        pools = bounce_pool(database.url), statement_pool(database.url)
        async with opened(*pools):
            return (await record(*pools, rules, secret, Report(identifier, BounceClass.hard, "550 gone"))).line

    assert "changed 1 row" in asyncio.run(report())
    assert consents(database) == {a: False, b: False, c: True}
    assert [event["reason"] for event in database.events()] == [None, "bounced", None]


def consents(database: Database) -> dict[int, bool]:
    return dict(
        database.execute("SELECT id, email_notifications_enabled FROM public.users WHERE email IS NOT NULL ORDER BY id")
    )


_FIND = """SELECT g.dateplan_id AS key, {columns} FROM public.guest g JOIN public.users u ON u.id = g.user_id
            WHERE u.email = %(email)s ORDER BY g.dateplan_id"""


@pytest.mark.slow
def test_an_address_names_one_person_of_a_row(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    """If `find` returns the person. Otherwise it names the whole row."""
    config = with_people(database, tmp_path, find=_FIND.format(columns="g.user_id AS person"))
    plan, (a, b) = sent(database, pgherald, config, "a", "b")
    other, late = add_plan(database, a), add_person(database, "late")
    database.verify(other)
    invite(database, plan, late)
    by_email = "--email", "b@example.org", "--config", config
    explained = json.loads(pgherald("explain", RULE, *by_email, "--json", check=True).stdout)
    assert (explained["key"], [event["person"] for event in explained["events"]]) == (str(plan), [str(b)])
    lines = pgherald("explain", RULE, "--email", "a@example.org", "--config", config, check=True).stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{RULE} {plan}", f"{RULE} {other}"]
    # Nobody has told this one, and the other plan's event is for all of its people.
    done = pgherald("explain", RULE, "--email", "late@example.org", "--config", config, check=True)
    assert "the row's events are for other people" in done.stdout
    assert "available" in lines[1]
    refuses(pgherald, "forget", RULE, *by_email, "--person", b, says=("--person requires",), status=2)
    assert pgherald("forget", RULE, *by_email, check=True).stdout == "1 event of 1 row forgotten\n"
    assert persons(database) == [str(a), None]
    configuration(tmp_path, each="person", lookup=LOOKUP, find=_FIND.format(columns="NULL::bigint AS person"))
    refuses(pgherald, "forget", RULE, *by_email, says=("find: returns a row without person",))
    configuration(tmp_path, each="person", lookup=LOOKUP, find=_FIND.format(columns="1 AS n"))
    assert pgherald("forget", RULE, *by_email, check=True).stdout == "1 event of 1 row forgotten\n"
    assert persons(database) == [None]
