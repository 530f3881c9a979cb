"""The value that a rule waits for, compared with the values that its column has or may have."""

import re
from difflib import get_close_matches
from typing import Any

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db import keys, state
from listener.db.owner import execute_as_owner
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, NotChecked, State, fault, ok, warn
from listener.printable import excerpt

# A table with fewer rows, by estimate, is read from end to end. It takes a few milliseconds.
_SMALL_TABLE_ROWS = 10_000
# A column with more values is hardly one of states. A line shows the most frequent of them.
_MAX_VALUES = 50
_MAX_SHOWN = 5
# Of difflib: 'shiped' and 'Shipped' are close to 'shipped', 'paid' and 'void' are not.
_CLOSE = 0.75
_LITERAL = re.compile(r"'((?:[^']|'')*)'")


async def value(context: Context, rule: str) -> Finding:
    """Check that the rule's state can be reached, and that its conditions fail for no row."""
    context.require_database()
    if context.standby or context.lookup_standby:
        raise NotChecked("lookups do not read a standby")
    configured = context.settings.rules[rule]
    if (failed := await _failed_condition(context, rule)) is not None:
        return failed
    if configured.when:
        return ok(f"`when` can be computed for the newest rows of {configured.table}")
    findings = [await _value(context, rule, each) for each in configured.becomes]
    return next((finding for finding in findings if finding.state is not State.ok), findings[0])


async def _failed_condition(context: Context, rule: str) -> Finding | None:
    """Compute the rule's conditions for the newest rows and for a row of NULLs. Return what is wrong with one."""
    configured = context.settings.rules[rule]
    remedy = f"correct [rules.{rule}], then run `pgherald rewatch {rule}`"
    for key in state.conditions(configured):
        try:
            await _read(context, configured, state.trial(configured, key))
        except (psycopg.DataError, psycopg.errors.UndefinedColumn, psycopg.errors.SyntaxError) as exc:
            return fault(state.failure(rule, key, configured, exc), remedy)
        try:
            await _read(context, configured, state.trial(configured, key, nulls=True))
        except psycopg.DataError as exc:
            return warn(state.null_failure(rule, key, configured, exc), remedy)
    return None


async def _value(context: Context, rule: str, becomes: str) -> Finding:
    """Check that the column has or may have a value. Reads statistics, an index or a small table."""
    configured = context.settings.rules[rule]
    types = await context.column_types(configured)
    if (type_ := types.get(configured.column)) is None:
        raise NotChecked(f"there is no column {configured.table}.{configured.column}")
    known = await context.row(QUERIES["known_values"], {"table": configured.table, "column": configured.column})
    try:
        text = keys.as_text(keys.literal(becomes, type_), type_)
        wanted = (await context.row(sql.SQL("SELECT {} AS value").format(text)))["value"]
    except psycopg.DataError:
        close = _closest(becomes, known["labels"])
        raise NotChecked(
            f"{becomes!r} is no value of type {type_.name}" + _question(close),
            f"correct [rules.{rule}] becomes",
        ) from None
    if wanted in known["labels"] or type_.name == "boolean":
        return ok(f"{wanted} is a value of type {type_.name}")
    allowed = [_LITERAL.findall(check) for check in known["checks"] if "ANY" in check or "=" in check]
    allowed = [[text.replace("''", "'") for text in found] for found in allowed if found]
    present = [text.rstrip(" ") if type_.name == "character" else text for text in known["common"]]
    is_small = known["rows"] < _SMALL_TABLE_ROWS
    if is_small and wanted not in present:
        present = await _present(context, configured, types)
    # A small table may have more values than were read.
    is_unknown = known["indexed"] if not is_small else len(present) == _MAX_VALUES
    if wanted in present or (is_unknown and await _exists(context, configured, becomes, types)):
        return ok(f"rows of {configured.table} have it")
    candidates = list(dict.fromkeys([*present, *(text for found in allowed for text in found)]))
    same = next((other for other in candidates if other.casefold() == wanted.casefold()), None)
    if same is not None and known["ignores_case"]:
        return ok(f"rows of {configured.table} have it")
    forbidden = bool(allowed) and not any(wanted in found for found in allowed)
    close = _closest(wanted, candidates)
    if close is not None or forbidden:
        shown = ", ".join(repr(excerpt(other)) for other in candidates[:_MAX_SHOWN])
        what = "a CHECK constraint allows others only" if forbidden and not present else "no row has it"
        return warn(
            f"{configured.table}.{configured.column} = {wanted!r}: {what}; there are {shown}{_question(close)}",
            f"correct [rules.{rule}] becomes, then run `pgherald install`",
        )
    return ok(f"no row of {configured.table} has it yet" if is_small or known["indexed"] else "it is a valid value")


def _question(close: str | None) -> str:
    return f"; did you mean {excerpt(close)!r}?" if close is not None else ""


def _closest(wanted: str, others: list[str]) -> str | None:
    """Return the text that was probably meant: it differs in case or blanks, or in a letter or two."""
    folded = {other.casefold().strip(): other for other in reversed(others) if other != wanted}
    if (same := folded.get(wanted.casefold().strip())) is not None:
        return same
    # A code of few letters, such as VE and PE, is close to every other one.
    found = get_close_matches(wanted.casefold(), folded, 1, _CLOSE) if len(wanted) > 3 else []
    return folded[found[0]] if found else None


async def _exists(context: Context, rule: Rule, becomes: str, types: keys.Types) -> bool:
    condition = keys.equals(rule.column, becomes, types)
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE {}) AS found").format(sql.SQL(rule.table), condition)
    return bool((await _read(context, rule, query))[0][0])


async def _present(context: Context, rule: Rule, types: keys.Types) -> list[str]:
    """Return the values that a small table has, the most frequent first."""
    text = keys.value_text(rule.column, types)
    query = sql.SQL(
        "SELECT {} FROM {} AS t WHERE t.{} IS NOT NULL GROUP BY 1 ORDER BY pg_catalog.count(*) DESC LIMIT {}"
    )
    found = await _read(
        context, rule, query.format(text, sql.SQL(rule.table), sql.Identifier(rule.column), sql.Literal(_MAX_VALUES))
    )
    return [text for (text,) in found]


async def _read(context: Context, rule: Rule, query: sql.Composed) -> list[tuple[Any, ...]]:
    async with context.lookup_session() as conn, conn.cursor() as cursor:
        await execute_as_owner(cursor, rule.table, query.as_string(conn).replace("%", "%%"))
        return await cursor.fetchall()
