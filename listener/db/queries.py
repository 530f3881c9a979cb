"""The named queries of ``sql/queries``: one file a subject, one ``-- name:`` line a query."""

import re
from collections.abc import Mapping
from typing import Any, LiteralString, cast

from listener.db.errors import translate_errors
from listener.db.pool import Pool
from listener.resources import resource


def load(subject: str) -> dict[str, LiteralString]:
    """Return the queries of ``sql/queries/SUBJECT.sql`` by name.

    Each still has its ``-- name:`` line, so that the server's logs and pg_stat_activity show which query it is.
    """
    text = resource(f"sql/queries/{subject}.sql").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^(?=-- name: )", text)[1:]
    # Files that ship with the package are as trusted as a literal in its source.
    return {_name(part): cast(LiteralString, part.rstrip().rstrip(";")) for part in parts}


def compact(query: LiteralString) -> LiteralString:
    """Return a query without its indentation and comments, except the name.

    psycopg caches what it makes of a text of at most 4 KB. Of a longer one it parses the parameters at each call.
    """
    name, *lines = query.splitlines()
    stripped = [line.strip() for line in lines]
    return "\n".join([name, *(line for line in stripped if not line.startswith("--"))])


async def run_query(pool: Pool, query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
    """Run one query on a connection of `pool` and return its rows as tuples.

    Raises:
        SchemaError, DatabaseUnavailable: See `translate_errors`.
    """
    with translate_errors():
        async with pool.connection() as conn:
            cursor = await conn.execute(query, values)
            return await cursor.fetchall() if cursor.description else []


def _name(part: str) -> str:
    return part.partition("\n")[0].removeprefix("-- name: ").strip()
