"""What a report changes: the event, its history, the counts, and once the row's owner."""

import asyncio
import json
from typing import Any, LiteralString

import pytest
from psycopg import sql

from listener.bounces.record import Recorded, record
from listener.bounces.report import BounceClass, Report
from listener.config.rules import DEFAULT_NAME, Rule, default_rules
from listener.db.pools import bounce_pool, opened, statement_pool
from listener.db.schema import read_secret
from listener.errors import DatabaseUnavailable, RuleBroken
from listener.message_id import make_message_id
from tests.support.database import Database
from tests.support.doctor import as_role

# It counts its calls.
STATEMENT = """
    WITH ended AS (
        UPDATE public.users AS u SET email_notifications_enabled = false
          FROM public.dateplan AS d
         WHERE u.id = d.user_id AND d.id = ANY (%(keys)s::bigint[]))
    INSERT INTO public.calls VALUES (%(class)s)
"""


def rules(statement: str = STATEMENT) -> dict[str, Rule]:
    return {
        DEFAULT_NAME: Rule(**{**default_rules()[DEFAULT_NAME].model_dump(exclude_unset=True), "bounced": statement})
    }


@pytest.fixture
def key(database: Database) -> str:
    """The key of an email that was sent."""
    database.execute("CREATE TABLE public.calls (class text)")
    database.verify(database.add_plan("Café", "gone@example.org"))
    database.execute("UPDATE pgherald.outbox SET state = 'sent', settled_at = now()")
    [event] = database.events()
    return make_message_id(read_secret(database.connect()), DEFAULT_NAME, event["id"], event["captured_at"])


async def send(
    database: Database,
    key: str,
    *kinds: str,
    configured: dict[str, Rule] | None = None,
    outbox: str = "",
    lookups: str = "",
) -> list[Recorded]:
    """Record a report of each class, all at one moment, each with a connection of its own."""
    secret = read_secret(database.connect())
    detail = "550 5.1.1 <gone@example.org>: no\x1b[31m such\nuser" + "x" * 1000

    async def one(kind: str) -> Recorded:
        pools = bounce_pool(outbox or database.url), statement_pool(lookups or database.url)
        async with opened(*pools):
            report = Report(f"<{key}@example.com>", BounceClass(kind), detail)
            return await record(*pools, rules() if configured is None else configured, secret, report)

    return await asyncio.gather(*map(one, kinds))


def calls(database: Database) -> list[str]:
    return [row[0] for row in database.execute("SELECT class FROM public.calls")]


def state(database: Database) -> tuple[Any, ...]:
    """The event's state and reason, the classes in its history, and the rule's counts."""
    [event] = database.events()
    words = [f"{entry['what']} {entry['detail'][:5]}" for entry in event["history"]]
    [counts] = database.execute("SELECT bounced, complained FROM pgherald.rule")
    return event["state"], event["reason"], words, *counts


async def test_a_bounce_is_recorded_and_runs_the_statement(database: Database, key: str) -> None:
    [done] = await send(database, key, "hard")
    assert done.changed
    assert done.line.endswith("hard bounce of dateplan_verified 1 recorded; the statement `bounced` changed 1 row")
    assert state(database) == ("sent", "bounced", ["bounced hard:"], 1, 0)
    assert calls(database) == ["hard"]
    assert database.value("SELECT email_notifications_enabled FROM public.users") is False
    [entry] = database.events()[0]["history"]
    assert entry["detail"].startswith(r"hard: 550 5.1.1 <g***@example.org>: no\x1b[31m such\nuserxxx")
    assert len(entry["detail"]) == 512
    assert "gone@" not in json.dumps(entry)


async def test_the_same_report_runs_the_statement_once(database: Database, key: str) -> None:
    for _ in range(3):
        await send(database, key, "soft")
    assert calls(database) == ["soft"]
    assert state(database)[2:] == (["bounced soft:"], 1, 0)


async def test_so_do_several_at_one_moment(database: Database, key: str) -> None:
    done = await send(database, key, *["hard"] * 5)
    assert sum(each.changed for each in done) == 1
    assert calls(database) == ["hard"]
    assert state(database)[2:] == (["bounced hard:"], 1, 0)


async def test_a_graver_class_runs_it_again_and_a_milder_one_does_not(database: Database, key: str) -> None:
    for kind in ("soft", "hard", "soft", "complaint", "hard", "complaint"):
        await send(database, key, kind)
    assert calls(database) == ["soft", "hard", "complaint"]
    # A complaint has no class before its detail.
    assert state(database) == ("sent", "complained", ["bounced soft:", "bounced hard:", "complained 550 5"], 1, 1)


async def test_a_statement_that_fails_leaves_the_report_to_be_sent_again(database: Database, key: str) -> None:
    with pytest.raises(RuleBroken, match=r'\[rules\.dateplan_verified\] bounced fails: relation "public\.gone"'):
        await send(database, key, "hard", configured=rules("DELETE FROM public.gone WHERE id = ANY (%(keys)s)"))
    with pytest.raises(DatabaseUnavailable, match="the bounced statement of rule dateplan_verified cannot run now"):
        await send(database, key, "hard", lookups="postgresql://127.0.0.1:1/x")
    assert state(database) == ("sent", None, [], 0, 0)
    [done] = await send(database, key, "hard")
    assert done.changed


async def test_the_daemons_role_may_record_and_needs_no_right_on_the_tables(
    database: Database, key: str, daemon_role: str
) -> None:
    database.execute(sql.SQL("REVOKE ALL ON public.users FROM {}").format(sql.Identifier(daemon_role)))
    [done] = await send(database, key, "hard", outbox=as_role(database, daemon_role))
    assert done.changed
    assert state(database) == ("sent", "bounced", ["bounced hard:"], 1, 0)
    with pytest.raises(RuleBroken, match="bounced fails: permission denied for table"):
        await send(database, key, "complaint", lookups=as_role(database, daemon_role))


async def test_without_a_statement_the_report_is_recorded(database: Database, key: str) -> None:
    [done] = await send(database, key, "complaint", configured=default_rules())
    assert done.line.endswith("complaint of dateplan_verified 1 recorded; the rule has no statement `bounced`")
    assert state(database) == ("sent", "complained", ["complained 550 5"], 0, 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("DELETE FROM pgherald.outbox", "is not in the outbox any more; nothing changed"),
        ("UPDATE pgherald.outbox SET captured_at = captured_at + interval '1 s'", "is not in the outbox any more"),
        ("UPDATE pgherald.outbox SET captured_at = 'infinity'", "is not in the outbox any more"),
        (
            "UPDATE pgherald.outbox SET state = 'failed', reason = 'rejected'",
            "is failed: as far as is known, its message was not sent; nothing changed",
        ),
        ("UPDATE pgherald.outbox SET state = 'available', settled_at = NULL", "is available: as far as is known"),
    ],
)
async def test_an_event_that_a_report_does_not_change(database: Database, key: str, change: Any, line: str) -> None:
    database.execute(change)
    whole: LiteralString = "SELECT event::text FROM pgherald.outbox AS event"
    before = database.execute(whole)
    [done] = await send(database, key, "hard")
    assert not done.changed
    assert line in done.line
    assert done.event_id == 1
    assert database.execute(whole) == before
    assert calls(database) == []


async def test_a_rule_that_is_no_longer_configured(database: Database, key: str) -> None:
    [done] = await send(database, key, "hard", configured={})
    assert done.line == "event 1 belongs to rule dateplan_verified, which is not configured; nothing changed"
    assert state(database) == ("sent", None, [], 0, 0)


@pytest.mark.parametrize(
    "change", ["state = 'in_doubt'", "state = 'available'", "state = 'failed', reason = 'rejected'"]
)
async def test_a_report_ends_a_doubt_because_the_message_has_left(database: Database, key: str, change: Any) -> None:
    database.execute(
        "UPDATE pgherald.outbox SET claim = 1, in_doubt_count = 1, settled_at = NULL, state = 'in_doubt', "
        "message = 'x', recipient = 'gone@example.org'"
    )
    if "failed" in change:
        change += ", settled_at = now(), message = NULL, recipient = NULL"
    database.execute(f"UPDATE pgherald.outbox SET {change}")  # type: ignore[arg-type]
    [done] = await send(database, key, "hard")
    assert done.changed
    assert state(database) == ("sent", "bounced", ["bounced hard:"], 1, 0)
    [event] = database.events()
    assert (event["message"], event["recipient"], event["settled_at"] is None) == (None, None, False)


@pytest.mark.parametrize("state", ["claimed", "transmitting"])
async def test_an_event_in_flight_is_to_be_reported_again(database: Database, key: str, state: str) -> None:
    database.execute("UPDATE pgherald.outbox SET state = %s, claim = 1, settled_at = NULL", (state,))
    with pytest.raises(DatabaseUnavailable, match="event 1 is just being sent; send the report again in a minute"):
        await send(database, key, "hard")
    assert calls(database) == []


@pytest.mark.parametrize("text", ["", "abcdefghijklmnopqrstuvwxyz", "of another database"])
async def test_a_key_that_is_not_of_this_database(database: Database, key: str, text: str) -> None:
    if "another" in text:
        [event] = database.events()
        text = make_message_id(b"another secret", DEFAULT_NAME, event["id"], event["captured_at"])
    [done] = await send(database, text, "hard")
    assert (done.changed, done.event_id) == (False, None)
    assert done.line == "the report is not on an email of this database; nothing changed"
    assert state(database) == ("sent", None, [], 0, 0)


async def test_a_database_that_cannot_be_reached(database: Database, key: str) -> None:
    secret = read_secret(database.connect())
    pool = bounce_pool("postgresql://127.0.0.1:1/x")
    async with opened(pool):
        with pytest.raises(DatabaseUnavailable):
            await record(pool, pool, rules(), secret, Report(key, BounceClass.hard, ""))


async def test_a_second_report_waits_for_the_statement_of_the_first(database: Database, key: str) -> None:
    """Otherwise both would find the event without a report."""
    slow = rules(
        STATEMENT.replace("INSERT INTO", "INSERT INTO /* slow */").replace(
            "(%(class)s)", "(%(class)s || left(pg_sleep(0.3)::text, 0))"
        )
    )
    done = await send(database, key, "hard", "hard", configured=slow)
    assert sorted(each.changed for each in done) == [False, True]
    assert calls(database) == ["hard"]
