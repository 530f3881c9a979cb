"""What one event's data does to a statement for many: that event alone suffers it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from listener.database import opened, outbox_pool
from listener.errors import BadData
from listener.event import Event, Mark, Settlement
from listener.outbox import Outbox
from tests.sql.claimant import RULE
from tests.support.database import Database


@asynccontextmanager
async def worker(database: Database) -> AsyncIterator[Outbox]:
    pool = outbox_pool(database.url)
    async with opened(pool):
        outbox = Outbox(pool, lease=10, hold=False)
        await outbox.register()
        yield outbox


def capture(database: Database, *keys: str) -> None:
    database.execute("INSERT INTO pgherald.outbox (rule, key) SELECT %s, unnest(%s::text[])", (RULE, list(keys)))


def states(database: Database) -> dict[str, str]:
    return dict(database.execute("SELECT left(key, 20), state FROM pgherald.outbox ORDER BY id"))


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
        events = await outbox.claim(500, [RULE])
        long = "f" * 200 + "..."
        expected: dict[str, str | None] = {**dict.fromkeys("abcdeg"), "b": "unreadable", "d": "unreadable"}
        assert flaws(events) == expected | {long: "too_large"}
        assert set(states(sandbox).values()) == {"claimed"}
        # Each is this worker's to settle, and nothing is left over that it does not know of.
        assert await outbox.disown([event.fence for event in events]) == 0
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
        assert [event.key for event in await outbox.claim(3, [RULE])] == ["a", "b", "c"]
        sandbox.execute(
            "INSERT INTO pgherald.rule (rule, \"table\", key, \"column\", value, paused_at) VALUES ('p', 'public.plan', '{id}', 'x', 'y', now())"
        )
        try:
            sandbox.execute("UPDATE pgherald.outbox SET rule = 'p', captured_at = 'infinity' WHERE key = 'd'")
            assert [event.key for event in await outbox.claim(3, [RULE, "p"])] == ["e", "f"]
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
        events = await outbox.claim(500, [RULE])
        assert flaws(events) == {"a": None, "2 octets that are no text": "unreadable", "c": None}


async def test_what_cannot_be_written_of_one_is_written_of_the_others(sandbox: Database) -> None:
    capture(sandbox, *"abcdefgh")
    sandbox.execute("UPDATE pgherald.outbox SET attempt = 2147483647 WHERE key = 'c'")
    async with worker(sandbox) as outbox:
        events = await outbox.claim(500, [RULE])
        a, b, c, d, e, f, g, _ = events
        with structlog.testing.capture_logs() as logs:
            written = await outbox.record(
                [Settlement(event, "failed", "failed", "x", "\0 \ud800 é", counts=True) for event in (a, b, c, d)],
                [Mark(e, "e@example.org", b"e"), Mark(f, "\ud800@example.org", b"f"), Mark(g, "g\0@example.org", b"g")],
            )
    assert written == {event.fence for event in (a, b, c, d, e)}
    assert states(sandbox) == {
        **dict.fromkeys("abcd", "failed"), "e": "transmitting", "f": "claimed", "g": "claimed", "h": "claimed"
    }  # fmt: skip
    assert [(entry["event"], entry["event_id"]) for entry in logs] == [
        ("event_detail_lost", c.id), ("event_not_written", f.id), ("event_not_written", g.id),
    ]  # fmt: skip
    assert sandbox.value("SELECT history -> -1 ->> 'detail' FROM pgherald.outbox WHERE key = 'a'") == "\\0 \\ud800 é"


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
        [event] = await outbox.claim(1, [RULE])
        await outbox.record([], [Mark(event, "a@example.org", b"abc")])
        stored = await outbox.stored(event)
        assert stored is not None
        assert (stored.recipient, stored.message) == ("a@example.org", b"abc")
        sandbox.execute(f"UPDATE pgherald.outbox SET {change}")  # type: ignore[arg-type]
        with pytest.raises(BadData) as caught:
            await outbox.stored(event)
        assert caught.value.reason == reason
        sandbox.execute("UPDATE pgherald.outbox SET claim = claim + 1")
        assert await outbox.stored(event) is None
