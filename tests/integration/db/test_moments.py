"""Times of rows that PostgreSQL can hold and Python cannot."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from listener.db.connection import connect_async
from listener.db.moments import read_any_time
from listener.db.pools import lookup_pool, opened
from tests.support.database import Database

BEYOND = [
    ("timestamptz", "infinity"), ("timestamptz", "-infinity"), ("timestamptz", "12026-01-01 00:00:00+00"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC"), ("timestamp", "infinity"), ("timestamp", "0044-03-15 12:00:00 BC"),
    ("date", "infinity"), ("date", "12026-01-01"), ("date", "0044-03-15 BC"), ("time", "24:00:00"),
    ("timetz", "24:00:00+00"), ("interval", "100000000 years"),
]  # fmt: skip


@pytest.fixture
def odd(database: Database) -> Database:
    """A database whose settings change the text of times."""
    name = database.value("SELECT current_database()")
    for setting in ("DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'"):
        database.execute(f"ALTER DATABASE {name} SET {setting}")  # type: ignore[arg-type]
    return database


async def test_a_lookup_reads_what_python_cannot_hold_as_text(odd: Database) -> None:
    async with opened(pool := lookup_pool(odd.url)), pool.connection() as conn:
        for kind, text in BEYOND:
            query = f"SELECT '{text}'::{kind}, ARRAY['{text}'::{kind}, NULL]"
            assert await (await conn.execute(query)).fetchone() == (text, [text, None])


async def test_all_other_times_are_those_of_python(odd: Database) -> None:
    at = datetime(2026, 12, 6, 19, 30, tzinfo=UTC)
    expected: list[tuple[str, Any]] = [
        ("timestamptz '2026-12-06 19:30+00'", at), ("timestamp '2026-12-06 19:30'", at.replace(tzinfo=None)),
        ("date '2026-12-06'", date(2026, 12, 6)), ("time '19:30'", time(19, 30)),
        ("interval '-1 day 02:00'", timedelta(days=-1, hours=2)), ("timestamptz '2026-12-06 19:30+00'::text", "2026-12-06 19:30:00+00"),
        ("bytea 'ab'", b"ab"),
    ]  # fmt: skip
    async with opened(pool := lookup_pool(odd.url)), pool.connection() as conn:
        for expression, value in expected:
            row = await (await conn.execute(f"SELECT {expression}")).fetchone()
            assert row == (value,)
            assert type(row[0]) is type(value)


async def test_a_style_that_a_function_sets_makes_texts(database: Database) -> None:
    async with opened(pool := lookup_pool(database.url)), pool.connection() as conn:
        await conn.execute(
            "SELECT set_config('IntervalStyle', 'iso_8601', false), set_config('DateStyle', 'German', false)"
        )
        row = await (await conn.execute("SELECT interval '1 day', timestamptz '2026-12-06 19:30+00'")).fetchone()
        assert row == ("P1D", "06.12.2026 19:30:00 UTC")


async def test_our_own_times_are_kept_in_the_range_of_python(odd: Database) -> None:
    async with await connect_async(odd.url) as conn:
        read_any_time(conn)
        for text, year in (("infinity", 9999), ("-infinity", 1), ("0044-03-15 12:00+00 BC", 1), ("2026-01-01 12:00+00", 2026)):  # fmt: skip
            row = await (await conn.execute("SELECT %s::timestamptz", (text,))).fetchone()
            assert row is not None
            assert row[0].year == year
