"""The lookup of a rule: valid, fast enough, and not limited by row-level security."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from listener.config.rules import Rule
from listener.db import keys
from listener.db.errors import lookup_failure
from listener.db.owner import execute_as_owner
from listener.db.pool import Pool
from listener.doctor.context import QUERIES, Context, RowSample
from listener.doctor.people import check_people, read_rows, rows_to_render
from listener.doctor.result import Finding, NotChecked, fault, ok, warn
from listener.doctor.rights import read_remedy
from listener.errors import BadData, DatabaseUnavailable, RuleBroken
from listener.outbox.event import key_of
from listener.worker.lookup import Lookup
from listener.worker.lookup_result import LookupResult
from listener.worker.row_budget import MAX_ROW_BYTES
from listener.worker.row_security import RLS_TABLES, policy_remedy, tables_read

# A sequential scan of fewer rows takes less than a millisecond.
LARGE_TABLE_ROWS = 1000
# The newest rows are the likeliest to be sent next. One query of the lookup covers them, as in the daemon. Many rules
# share a number of rows, since each is rendered several times.
_MAX_SAMPLE_ROWS = 100
_MIN_SAMPLE_ROWS = 3
_MAX_ROWS_OF_ALL_RULES = 600
# A lookup that takes longer delays a whole batch. The daemon runs one for each batch.
_LOOKUP_TIMEOUT_S = 20.0


async def lookup(context: Context, rule: str) -> Finding:
    """Run the rule's lookup for the newest rows, and look at its plan for one of them.

    The rows found are kept in `context.samples` for the checks of the templates.
    """
    context.require_database()
    configured = context.settings.rules[rule]
    context.samples[rule] = None
    if context.standby or context.lookup_standby:
        raise NotChecked("lookups do not read a standby")
    query, pool = Lookup(rule, configured, as_owner=True), context.lookups
    try:
        columns = await query.check(pool)
        newest = await _newest_keys(context, rule)
        plan = await _plan(pool, configured, newest[:1])
        hidden = await _check_row_security(context, configured, plan)
        scanned = await _scanned_table(context, plan) if newest else None
        found = await _rows(pool, query, newest)
    except RuleBroken as exc:
        if isinstance(exc.__cause__, psycopg.errors.InsufficientPrivilege):
            return fault(str(exc), await read_remedy(context, configured))
        return fault(str(exc), f"correct [rules.{rule}] lookup")
    except DatabaseUnavailable as exc:
        return fault(str(exc), "start that server, or correct [database] lookup_url or url")
    except BadData as exc:
        return fault(
            f"the lookup fails for the data of the newest rows: {exc}", f"correct [rules.{rule}] lookup, or the rows"
        )
    if found is not None:
        context.samples[rule] = RowSample(columns, rows_to_render(configured, found))
    if hidden is not None:
        return hidden
    if not newest:
        return ok(f"runs; {configured.table} is empty, so it was tried with no row")
    if found is not None and (wrong := check_people(rule, configured, found)) is not None:
        return wrong
    if scanned is not None:
        return warn(
            f"scans the whole of {scanned} for one key",
            "CREATE INDEX on the column that it compares with the keys; "
            "cast the keys and not the column: = ANY (%(keys)s::bigint[])",
        )
    if found is None:
        return warn(
            f"did not finish for {len(newest)} keys within {_LOOKUP_TIMEOUT_S:g} s",
            "find the slow part with EXPLAIN (ANALYZE, BUFFERS)",
        )
    if found.too_large:
        row, octets = next(iter(found.too_large.items()))
        return warn(
            f"rows are too large for {len(found.too_large)} of the newest {len(newest)} keys; "
            f"the row of key {key_of(row)} has {octets} bytes, the limit is {MAX_ROW_BYTES}",
            "remove columns that the template does not use from the SELECT, or shorten them: left(text, 10000)",
        )
    return ok(f"runs and uses an index; finds {len(found.rows)} of the newest {len(newest)} rows")


async def _rows(pool: Pool, query: Lookup, newest: list[str]) -> LookupResult | None:
    """Return the rows of these keys, or None after `_LOOKUP_TIMEOUT_S`."""
    if not newest:
        return LookupResult({})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
            return await read_rows(pool, query, newest)
    return None


async def _newest_keys(context: Context, name: str) -> list[str]:
    """Return the keys of the newest rows in the outbox's form. The order by key uses the index of the primary key."""
    rule = context.settings.rules[name]
    types = await context.column_types(rule)
    async with context.lookup_session() as conn, conn.cursor() as cursor:
        query = sql.SQL("SELECT convert_to({}, getdatabaseencoding()) FROM {} AS t ORDER BY {} LIMIT {}").format(
            keys.key_text(rule, types),
            sql.SQL(rule.table),
            sql.SQL(", ").join(sql.SQL("t.{} DESC").format(sql.Identifier(column)) for column in rule.key),
            sql.Literal(_sample_rows(len(context.settings.rules))),
        )
        try:
            await execute_as_owner(cursor, rule.table, query.as_string(conn).replace("%", "%%"))
        except psycopg.errors.InsufficientPrivilege as exc:
            raise lookup_failure(name, exc) from exc
        newest = [octets for (octets,) in await cursor.fetchall()]
    # Keys that cannot be read as text, or are too long for the outbox, are left out: none of them is captured.
    if context.installed:
        return [row["key"] for row in await context.rows(QUERIES["readable"], {"keys": newest})]
    return [octets.decode(errors="replace") for octets in newest]


def _sample_rows(rules: int) -> int:
    return min(_MAX_SAMPLE_ROWS, max(_MIN_SAMPLE_ROWS, _MAX_ROWS_OF_ALL_RULES // rules))


async def _plan(pool: Pool, rule: Rule, of: list[str]) -> list[dict[str, Any]]:
    """Return all nodes of the lookup's plan."""
    explain = f"EXPLAIN (VERBOSE, FORMAT JSON) {rule.lookup.strip().rstrip(';')}"
    async with pool.connection() as conn, conn.cursor() as cursor:
        await execute_as_owner(cursor, rule.table, explain, of)
        [(found,)] = await cursor.fetchall()
    return list(_nodes(found[0]["Plan"]))


async def _check_row_security(context: Context, rule: Rule, plan: list[dict[str, Any]]) -> Finding | None:
    """Return a finding if row-level security hides rows. The daemon would settle their events as row_gone."""
    # The plan names the tables behind views. It omits a table of which the role sees no row; the query's text has that.
    read = {_name(node) for node in plan if "Relation Name" in node} | tables_read(rule.lookup)
    async with context.lookup_session() as conn, conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(RLS_TABLES, {"tables": sorted({rule.table} | read)})
        rows = await cursor.fetchall()
    for row in rows:
        if row["whole"]:
            continue
        table, role = row["table"], row["role"]
        remedy = policy_remedy(table, role)
        if not row["some"]:
            return fault(f"row-level security shows {role} no row of {table}: its rules are suspended", remedy)
        return warn(
            f"row-level security may hide rows of {table} from {role}: their events would be skipped as row_gone",
            remedy,
        )
    return None


def _name(node: dict[str, Any]) -> str:
    return sql.Identifier(node["Schema"], node["Relation Name"]).as_string(None)


async def _scanned_table(context: Context, plan: list[dict[str, Any]]) -> str | None:
    """Return the large table that the plan scans from end to end, with its size and the filter; None otherwise."""
    scanned = {_name(node): node for node in plan if node["Node Type"] == "Seq Scan"}
    if not scanned:
        return None
    for row in await context.rows(QUERIES["large_tables"], {"tables": list(scanned), "rows": LARGE_TABLE_ROWS}):
        node = scanned[row["table"]]
        condition = f" by {node['Filter'][:120]}" if "Filter" in node else ""
        return f"{node['Schema']}.{node['Relation Name']} (about {row['rows']:.0f} rows){condition}"
    return None


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)
