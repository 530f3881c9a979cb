"""A superuser reads a table with its owner's rights, and leaves nothing behind."""

from collections.abc import Iterator

import pytest
from psycopg import sql

from listener.db.connection import connect, connect_async
from listener.db.owner import execute_as_owner, fetch_as_owner
from tests.support.database import Database

WHO = sql.SQL("SELECT current_user::text AS who, '5 %' AS text FROM public.dateplan LIMIT 1")


@pytest.fixture
def owned(database: Database) -> Iterator[Database]:
    database.add_plan("Café", "jane@example.org")
    role = f"owner_of_{database.value('SELECT current_database()')}"
    database.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    database.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(role)))
    database.execute(sql.SQL("ALTER TABLE public.dateplan OWNER TO {}").format(sql.Identifier(role)))
    yield database
    database.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_row_is_read_as_the_owner(owned: Database) -> None:
    with connect(owned.url) as conn:
        row = fetch_as_owner(conn, "public.dateplan", WHO)
        assert row == (f"owner_of_{owned.value('SELECT current_database()')}", "5 %")
        left = conn.execute("SELECT count(*) FROM pg_proc WHERE proname = 'pgherald_read'").fetchone()
        assert left == (0,)


async def test_rows_are_read_as_the_owner_by_their_keys(owned: Database) -> None:
    async with await connect_async(owned.url) as conn, conn.cursor() as cursor:
        query = "SELECT current_user::text, id FROM public.dateplan WHERE id::text = ANY (%(keys)s)"
        await execute_as_owner(cursor, "public.dateplan", query, ["1", "99"])
        assert await cursor.fetchall() == [(f"owner_of_{owned.value('SELECT current_database()')}", 1)]
        assert [column.name for column in cursor.description or ()] == ["current_user", "id"]


def test_a_table_of_a_superuser_is_read_as_it_is(database: Database) -> None:
    database.add_plan("Café", "jane@example.org")
    with connect(database.url) as conn:
        row = fetch_as_owner(conn, "public.dateplan", WHO)
        assert row == (conn.info.user, "5 %")
