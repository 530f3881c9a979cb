"""Bad data of one event fails that event alone, not the others in the same statement."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from psycopg import sql

from listener.config.rules import default_rules
from listener.config.sections import DeliverySettings
from listener.db.connection import parameters
from listener.db.pool import Connection, Pool
from listener.db.pools import lookup_pool, opened, outbox_pool
from listener.errors import BadData
from listener.outbox.event import Event, OutgoingMessage, Settlement
from listener.outbox.registration import Registration
from listener.outbox.store import Outbox
from listener.outbox.turns import Turn
from listener.worker.delivery import Delivery
from listener.worker.lookup import Lookup
from listener.worker.registry import WorkerRegistry
from listener.worker.suspensions import Suspension
from tests.support.claimant import RULE
from tests.support.database import Database, Databases, install_triggers


@asynccontextmanager
async def worker(database: Database) -> AsyncIterator[Outbox]:
    pool = outbox_pool(database.url)
    async with opened(pool):
        registration = Registration(lease_s=10)
        await WorkerRegistry(pool, registration, list).register()
        yield Outbox(pool, registration, lambda rule: False)


def capture(database: Database, *keys: str) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, unnest(%s::text[])", (RULE, list(keys)))


def states(database: Database) -> dict[str, str]:
    return dict(database.execute("SELECT left(key, 20), state FROM pgherald.outbox ORDER BY id"))


def message(event: Event, recipient: Any, raw: bytes) -> OutgoingMessage:
    """A mark, also for a recipient that no `Address` can have."""
    return OutgoingMessage(event, recipient, raw, "id")


def flaws(events: list[Event]) -> dict[str, str | None]:
    return {event.key: event.flaw[0] if event.flaw else None for event in events}


async def test_a_claim_gives_all_and_names_those_that_cannot_be_read(sandbox: Database) -> None:
    capture(sandbox, *"abcdefg")
    for key, change in {
        "b": "captured_at = 'infinity'",
        "d": "captured_at = '4713-01-01 BC'",
        "e": "history = '7'",
        "f": "key = repeat('f', 16385)",
    }.items():
        sandbox.execute(f"UPDATE pgherald.outbox SET {change} WHERE key = '{key}'")  # type: ignore[arg-type]
    async with worker(sandbox) as outbox:
        events = await outbox.claim(500, [Turn(RULE)])
        long = "f" * 200 + "..."
        expected: dict[str, str | None] = {**dict.fromkeys("abcdeg"), "b": "unreadable", "d": "unreadable"}
        assert flaws(events) == expected | {long: "too_large"}
        assert set(states(sandbox).values()) == {"claimed"}
        # Each is this worker's to settle, and nothing is left over that it does not know of.
        assert await outbox.release_lost_claims([event.fence for event in events]) == 0
        settled = [Settlement(event, "failed", "failed", *(event.flaw or ("x", "y"))) for event in events]
        assert await outbox.record(settled, []) == {event.fence for event in events}
    whats = sandbox.value(
        "SELECT string_agg(history -> -2 ->> 'what' || ' ' || (history -> -1 ->> 'what'), ';') FROM pgherald.outbox"
    )
    assert set(whats.split(";")) == {"claimed failed"}


async def test_a_claim_takes_no_more_than_it_may_where_one_cannot_be_read(sandbox: Database) -> None:
    capture(sandbox, *"abcdef")
    sandbox.execute("UPDATE pgherald.outbox SET captured_at = 'infinity' WHERE key = 'b'")
    async with worker(sandbox) as outbox:
        assert [event.key for event in await outbox.claim(3, [Turn(RULE)])] == ["a", "b", "c"]
        sandbox.execute(
            "INSERT INTO pgherald.rule (rule, \"table\", table_name, key, \"column\", becomes, paused_at) VALUES ('p', 'public.plan', 'public.plan', '{id}', 'x', '{y}', now())"
        )
        try:
            sandbox.execute("UPDATE pgherald.outbox SET rule = 'p', captured_at = 'infinity' WHERE key = 'd'")
            assert [event.key for event in await outbox.claim(3, [Turn(RULE), Turn("p")])] == ["e", "f"]
        finally:
            sandbox.execute("DELETE FROM pgherald.rule WHERE rule = 'p'")


async def test_a_text_that_the_files_have_wrong(sandbox: Database) -> None:
    """In a database in UTF-8 the server takes its own word for it, and the driver does not."""
    capture(sandbox, *"abc")
    sandbox.execute("CREATE CAST (bytea AS text) WITHOUT FUNCTION")
    try:
        sandbox.execute("UPDATE pgherald.outbox SET key = ('\\xff61'::bytea)::text WHERE key = 'b'")
    finally:
        sandbox.execute("DROP CAST (bytea AS text)")
    async with worker(sandbox) as outbox:
        events = await outbox.claim(500, [Turn(RULE)])
        assert flaws(events) == {"a": None, "2 octets that are not valid text": "unreadable", "c": None}


async def test_what_cannot_be_written_of_one_is_written_of_the_others(sandbox: Database) -> None:
    capture(sandbox, *"abcdefgh")
    sandbox.execute("UPDATE pgherald.outbox SET attempt = 2147483647 WHERE key = 'c'")
    async with worker(sandbox) as outbox:
        events = await outbox.claim(500, [Turn(RULE)])
        a, b, c, d, e, f, g, _ = events
        with structlog.testing.capture_logs() as logs:
            written = await outbox.record(
                [
                    Settlement(event, "failed", "failed", "x", "\0 \ud800 é", uses_attempt=True)
                    for event in (a, b, c, d)
                ],
                [
                    message(e, "e@example.org", b"e"),
                    message(f, "\ud800@example.org", b"f"),
                    message(g, "g\0@example.org", b"g"),
                ],
            )
    assert written == {event.fence for event in (a, b, c, d, e)}
    assert states(sandbox) == {
        **dict.fromkeys("abcd", "failed"), "e": "transmitting", "f": "claimed", "g": "claimed", "h": "claimed"
    }  # fmt: skip
    assert [(entry["event"], entry["event_id"]) for entry in logs] == [
        ("event_detail_lost", c.id), ("event_not_written", f.id), ("event_not_written", g.id),
    ]  # fmt: skip
    assert sandbox.value("SELECT history -> -1 ->> 'detail' FROM pgherald.outbox WHERE key = 'a'") == "\\0 \\ud800 é"


async def test_letters_that_the_database_has_not(databases: Databases) -> None:
    with databases.fresh(encoding="LATIN1") as database:
        install_triggers(database.connect())
        pool = outbox_pool(database.url)
        async with opened(pool):
            registry = WorkerRegistry(pool, Registration(lease_s=10), list)
            await registry.register()
            assert await registry.renew(
                has_presence_lock=False,
                listening=False,
                leader=False,
                pid=None,
                breaker_reason="554 你好 é",
                suspended={"paid": Suspension(datetime.now(UTC), "no column 你好 é")},
            )
        assert database.value("SELECT breaker_reason FROM pgherald.worker") == "554 \\u4f60\\u597d \\xe9"
        assert database.value("SELECT suspended_reasons FROM pgherald.worker") == ["no column \\u4f60\\u597d \\xe9"]


async def test_a_recipient_that_is_no_text(databases: Databases) -> None:
    with databases.fresh(encoding="SQL_ASCII") as database:
        install_triggers(database.connect())
        capture(database, "a")
        async with worker(database) as outbox:
            [event] = await outbox.claim(1, [Turn(RULE)])
            database.execute(
                "UPDATE pgherald.outbox SET message = '\\x00', recipient = convert_from('\\xe9', 'SQL_ASCII')"
            )
            with pytest.raises(BadData, match="CharacterNotInRepertoire") as caught:
                await outbox.stored_message(event)
    assert caught.value.reason == "unreadable"


async def test_a_row_whose_page_is_damaged(database: Database) -> None:
    """A server that finds a piece of a long text missing fails the query, for that row."""
    plans = [database.add_plan("x", "a@example.org") for _ in range(5)]
    with database.connect() as conn:
        conn.execute("ALTER TABLE public.plan ALTER COLUMN place SET STORAGE EXTERNAL")
        conn.execute(
            "UPDATE public.plan SET place = repeat('x', 10000) WHERE id IN (SELECT plan_id FROM public.dateplan WHERE id = %s)",
            (plans[2],),
        )
        conn.execute("SET allow_system_table_mods = on")
        [(toast,)] = conn.execute(
            "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'public.plan'::regclass"
        )
        # Nobody may write there, as long as the catalog says what it is.
        for kind in "rt":
            conn.execute("UPDATE pg_class SET relkind = %s WHERE oid = %s::regclass", (kind, toast))
            if kind == "r":
                conn.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(toast)))
    database.execute("UPDATE public.dateplan SET status = 'VE'")
    pool = lookup_pool(database.url)
    anything: Any = SimpleNamespace(recipients=SimpleNamespace(allows=lambda _: True))
    delivery = Delivery(default_rules(), anything, b"", {RULE: DeliverySettings(max_attempts=1)})
    async with opened(pool), worker(database) as outbox:
        decided = await delivery.triage(RULE, await outbox.claim(500, [Turn(RULE)]), pool)
    failed = [(each.event.key, each.reason) for each in decided if isinstance(each, Settlement)]
    assert failed == [(str(plans[2]), "lookup_error")]
    assert len(decided) == 5


async def test_a_role_whose_search_path_has_functions_and_operators_of_its_own(sandbox: Database) -> None:
    plan = sandbox.add_plan("x", "a@example.org", status="VE")
    sandbox.execute(
        """CREATE FUNCTION app.trap() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$trapped$x$; END';
           CREATE FUNCTION app.octet_length(text) RETURNS bigint LANGUAGE sql AS 'SELECT app.trap()';
           CREATE FUNCTION app.concat(anyelement) RETURNS text LANGUAGE sql AS 'SELECT app.trap()::text';
           CREATE FUNCTION app.two(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT app.trap()';
           CREATE FUNCTION app.cmp(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT app.trap() IS NULL';
           CREATE OPERATOR app.+ (FUNCTION = app.two, LEFTARG = bigint, RIGHTARG = bigint);
           CREATE OPERATOR app.* (FUNCTION = app.two, LEFTARG = bigint, RIGHTARG = bigint);
           CREATE OPERATOR app.<= (FUNCTION = app.cmp, LEFTARG = bigint, RIGHTARG = bigint);
           CREATE OPERATOR app.= (FUNCTION = app.cmp, LEFTARG = bigint, RIGHTARG = bigint);
           CREATE DOMAIN app.int8 AS text; CREATE DOMAIN app.int4 AS text"""
    )
    rule = default_rules()[RULE].model_copy(update={"lookup": LOOKUP})
    pool = Pool({**parameters(sandbox.url), "options": "-c search_path=app,pg_catalog"}, _configured, 1, patience=5)
    async with opened(pool):
        found = await Lookup(RULE, rule).rows(pool, [str(plan)])
    assert [row["tags"] for row in found.rows[str(plan)]] == [["a", "b"]]


LOOKUP = """SELECT d.id::text AS key, d.status AS current, 'a@example.org' AS email, true AS consent, 'x' AS place, '{a,b}'::text[] AS tags
              FROM public.dateplan AS d WHERE d.id::text OPERATOR(pg_catalog.=) ANY (%(keys)s::text[])  -- the end"""


async def _configured(_: Connection) -> None: ...


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("recipient = NULL", "unreadable"),
        ("recipient = repeat('x', 3000)", "unreadable"),
        ("message = decode(repeat('00', 3000000), 'hex')", "unreadable"),
        ("message = '\\x00'", "unreadable"),
    ],
)
async def test_what_was_kept_and_cannot_be_used(sandbox: Database, change: str, reason: str) -> None:
    capture(sandbox, "a")
    async with worker(sandbox) as outbox:
        [event] = await outbox.claim(1, [Turn(RULE)])
        await outbox.record([], [message(event, "a@example.org", b"abc")])
        stored = await outbox.stored_message(event)
        assert stored is not None
        assert (stored.recipient, stored.message) == ("a@example.org", b"abc")
        sandbox.execute(f"UPDATE pgherald.outbox SET {change}")  # type: ignore[arg-type]
        with pytest.raises(BadData) as caught:
            await outbox.stored_message(event)
        assert caught.value.reason == reason
        sandbox.execute("UPDATE pgherald.outbox SET claim = claim + 1")
        assert await outbox.stored_message(event) is None
