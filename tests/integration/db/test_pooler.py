"""Without a pooler, a session is its own. test_pooler_and_standby.py asks the same behind one."""

from listener.db.connection import connect_async
from listener.db.pooler import is_pooled, is_shared
from tests.support.database import Database


async def test_a_direct_session_is_neither_pooled_nor_shared(database: Database) -> None:
    async with await connect_async(database.url) as conn:
        assert not await is_pooled(conn)
        assert not await is_shared(conn, database.url)
