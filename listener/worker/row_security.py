"""Row-level security may hide every row of a table from the lookup. Nothing in the query's answer tells that."""

import re
from typing import Any

import psycopg
from psycopg.rows import dict_row

from listener.config.rules import SQL_NAME, Rule
from listener.db.connection import PATH
from listener.db.queries import load
from listener.errors import RuleBroken

# Parameter `tables`. Returns a row for each table of which policies may hide rows from the session's role.
RLS_TABLES = load("admin")["rls_tables"]
_READ = re.compile(rf"\b(?:FROM|JOIN)\s+({SQL_NAME}(?:\.{SQL_NAME})?)", re.IGNORECASE)


def tables_read(lookup: str) -> set[str]:
    """Return the names that stand where a query names a table. A name can also be that of a CTE."""
    return set(_READ.findall(lookup))


def policy_remedy(table: str, role: str) -> str:
    """Return the statements by which the role sees the whole table."""
    return f"CREATE POLICY pgherald ON {table} FOR SELECT TO {role} USING (true); or ALTER ROLE {role} BYPASSRLS"


async def require_visible_rows(conn: psycopg.AsyncConnection[Any], name: str, rule: Rule) -> None:
    """Check that the session's role may see rows of each table that the lookup reads. A row was not found.

    Raises:
        RuleBroken: No policy lets it see any. All events would be skipped as row_gone.
    """
    async with conn.transaction():
        await conn.execute(f"SET LOCAL search_path = {PATH}", prepare=False)
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(RLS_TABLES, {"tables": sorted({rule.table} | tables_read(rule.lookup))}, prepare=False)
            hidden = [row for row in await cursor.fetchall() if not row["some"]]
    if hidden:
        table, role = hidden[0]["table"], hidden[0]["role"]
        raise RuleBroken(
            f"the lookup of rule {name}: row-level security shows {role} no row of {table}; {policy_remedy(table, role)}"
        )
