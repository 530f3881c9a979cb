"""What each of the daemon's pools sets in its sessions."""

from collections.abc import Callable

import pytest

from listener.db.pool import Pool
from listener.db.pools import lookup_pool, opened, outbox_pool, overview_pool, unsubscribe_pool
from tests.support.database import Database

Setting = tuple[str, str]
CASES: list[tuple[Callable[[str], Pool], list[Setting], bool]] = [
    (
        outbox_pool,
        [("enable_seqscan", "off"), ("plan_cache_mode", "force_generic_plan"), ("row_security", "off")],
        True,
    ),
    (outbox_pool, [("synchronous_commit", "on"), ("array_nulls", "on")], True),
    (lookup_pool, [("default_transaction_read_only", "on"), ("search_path", '"$user", public')], True),
    (unsubscribe_pool, [("row_security", "on"), ("search_path", "pg_catalog, pg_temp")], False),
    (overview_pool, [("enable_seqscan", "off"), ("enable_sort", "on"), ("row_security", "off")], True),
]


@pytest.mark.parametrize(("make", "expected", "prepares"), CASES)
async def test_its_sessions(
    database: Database, make: Callable[[str], Pool], expected: list[Setting], prepares: bool
) -> None:
    database.execute(f"ALTER DATABASE {database.value('SELECT current_database()')} SET synchronous_commit = off")  # type: ignore[arg-type]
    async with opened(pool := make(database.url)), pool.connection() as conn:
        for name, value in expected:
            row = await (await conn.execute("SELECT current_setting(%s)", (name,))).fetchone()
            assert row == (value,), name
        assert (conn.prepare_threshold is not None) == prepares
