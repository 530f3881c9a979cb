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


def positional(query: LiteralString) -> tuple[bytes, tuple[str, ...]]:
    """Return a query in the server's own form, with $1 for a parameter, and the parameters' names in their order.

    A raw cursor takes it. Any other cursor parses a text of more than 4 KB again at each call.
    """
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return re.sub(r"%\((\w+)\)s", number, query).replace("%%", "%").encode(), tuple(names)


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
