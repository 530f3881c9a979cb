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
MAX_ROWS = 10_000

# OFFSET 0 keeps the outer condition out of the operator's query.
_QUERY = """SELECT found.key, {person}
  FROM (SELECT *
          FROM (
{find}
               ) AS found OFFSET 0) AS found
 WHERE pg_catalog.octet_length(pg_catalog.concat(found.key)) OPERATOR(pg_catalog.<=) {most}
 LIMIT {rows}"""


# Parsed and not run. Only this says whether the query returns the person.
_COLUMNS = "SELECT * FROM (\n{find}\n) AS found LIMIT 0"


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row that has an address. `key` is in the outbox's form. `person`: only this person of it has the address."""

    key: str
    person: str | None = None


@dataclass(frozen=True, slots=True)
class FoundRows:
    """The result of `find_rows`.

    Attributes:
        rows: The rows, each once, in the order of the query. With `each` a row may occur for several persons.
        has_more: The query returns more than `MAX_ROWS` rows.
    """

    rows: list[FoundRow]
    has_more: bool


async def find_rows(pool: Pool, name: str, rule: Rule, email: str) -> FoundRows:
    """Return the rows that have this address, by the query `find` of the rule `name`.

    With `each`, the query may return the person too, in the column of that name.

    It runs as the rule's lookup does: on `pool`, the one of lookups, which is read-only. For a superuser it runs with the
    rights of the table's owner.

    Raises:
        RuleBroken: The query fails, returns no column `key`, or no value for the person.
        DatabaseUnavailable: The database cannot be reached, or the query takes longer than a lookup may.
    """
    find = rule.find.strip().rstrip(";").replace("%(email)s", "(%(keys)s::pg_catalog.text[])[1]")
    try:
        async with pool.connection() as conn, conn.cursor() as cursor:
            person = "NULL::pg_catalog.text"
            if rule.each:
                await execute_as_owner(cursor, rule.table, _COLUMNS.format(find=find), [email])
                if rule.each in [column.name for column in cursor.description or ()]:
                    person = f'pg_catalog.concat(found."{rule.each}")'
            query = _QUERY.format(find=find, person=person, most=MAX_KEY_BYTES, rows=MAX_ROWS + 1)
            await execute_as_owner(cursor, rule.table, f"-- name: find {name}\n{query}", [email])
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
    found = dict.fromkeys(FoundRow(key_text(key), person) for key, person in rows[:MAX_ROWS] if key is not None)
    if any(row.person == "" for row in found):
        # Without the person, the events of all people of the row would be taken for theirs.
        raise RuleBroken(f"[rules.{name}] find: returns a row without {rule.each}; leave the row out, or the column")
    return FoundRows(list(found), len(rows) > MAX_ROWS)


def _failure(name: str, exc: BaseException) -> RuleBroken | DatabaseUnavailable:
    if is_by_data(exc):
        # The server's message may quote the address.
        state = exc.sqlstate if isinstance(exc, psycopg.Error) else None
        return RuleBroken(f"[rules.{name}] find: fails on this address or a row's data (SQLSTATE {state}); correct it")
    if is_unavailable(exc):
        return DatabaseUnavailable(f"[rules.{name}] find: cannot run now: {summary(exc)}")
    return RuleBroken(f"[rules.{name}] find: {summary(exc)}; correct the query")
