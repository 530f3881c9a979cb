"""The rows of an address, by a rule's query `find`. Nothing is stored for it."""

from dataclasses import dataclass
from typing import Any

import psycopg

from listener.config.keys import MAX_KEY_BYTES, key_text
from listener.config.rules import Rule
from listener.db.errors import is_by_data, is_unavailable, summary
from listener.db.owner import execute_as_owner
from listener.db.pool import Pool
from listener.errors import DatabaseUnavailable, PgheraldError, RuleBroken

# More rows than an address has anywhere. A query with a wrong condition finds the whole table.
MAX_KEYS = 10_000

# OFFSET 0 keeps the outer condition out of the operator's query.
_QUERY = """SELECT found.key
  FROM (SELECT *
          FROM (
{find}
               ) AS found OFFSET 0) AS found
 WHERE pg_catalog.octet_length(pg_catalog.concat(found.key)) OPERATOR(pg_catalog.<=) {most}
 LIMIT {rows}"""


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """The result of `find_keys`.

    Attributes:
        keys: The rows' keys in the outbox's form, each once, in the order of the query.
        has_more: The query returns more than `MAX_KEYS` rows.
    """

    keys: list[str]
    has_more: bool


async def find_keys(pool: Pool, name: str, rule: Rule, email: str) -> FoundKeys:
    """Return the keys of the rows that have this address, by the query `find` of the rule `name`.

    It runs as the rule's lookup does: on `pool`, the one of lookups, which is read-only. For a superuser it runs with the
    rights of the table's owner.

    Raises:
        RuleBroken: The query fails, or returns no column `key`.
        DatabaseUnavailable: The database cannot be reached, or the query takes longer than a lookup may.
    """
    find = rule.find.strip().rstrip(";").replace("%(email)s", "(%(keys)s::pg_catalog.text[])[1]")
    query = f"-- name: find {name}\n" + _QUERY.format(find=find, most=MAX_KEY_BYTES, rows=MAX_KEYS + 1)
    try:
        async with pool.connection() as conn, conn.cursor() as cursor:
            await execute_as_owner(cursor, rule.table, query, [email])
            rows: list[tuple[Any, ...]] = await cursor.fetchall()
    except psycopg.errors.UndefinedColumn as exc:
        if "found.key" not in str(exc):
            raise _failure(name, exc) from exc
        raise RuleBroken(f"[rules.{name}] find: returns no column key; write SELECT … AS key") from exc
    except (psycopg.Error, OSError, TimeoutError) as exc:
        raise _failure(name, exc) from exc
    except PgheraldError:
        raise
    except Exception as exc:
        # For example text that is not UTF-8.
        raise RuleBroken(f"[rules.{name}] find: a key cannot be read ({type(exc).__name__}); correct the row") from exc
    keys = dict.fromkeys(key_text(key) for (key,) in rows[:MAX_KEYS] if key is not None)
    return FoundKeys(list(keys), len(rows) > MAX_KEYS)


def _failure(name: str, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
    if is_by_data(exc):
        # The server's message may quote the address.
        state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
        return RuleBroken(f"[rules.{name}] find: fails on this address or a row's data (SQLSTATE {state}); correct it")
    if is_unavailable(exc):
        return DatabaseUnavailable(f"[rules.{name}] find: cannot run now: {summary(exc)}")
    return RuleBroken(f"[rules.{name}] find: {summary(exc)}; correct the query")
