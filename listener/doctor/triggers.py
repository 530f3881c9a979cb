"""The triggers: there, enabled, and what watch() makes."""

import re
from typing import Any

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db import keys
from listener.db.schema import table_remedy, watch_call, watch_values
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import CheckResult, NotChecked, fault, ok, warn

# pg_trigger.tgtype: https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_trigger.h
_ROW, _INSERT, _DELETE, _UPDATE = 1, 4, 8, 16
_ROW_TRIGGERS = {"update": _ROW | _UPDATE, "insert": _ROW | _INSERT}
_STATEMENT_TRIGGERS = {"update": _UPDATE, "insert": _INSERT}
# The transition tables that the capture function reads: of the rows before, and after.
_READS = {"update": ("old_rows", "new_rows"), "insert": (None, "new_rows")}
_PARTITIONED = {"delete": _ROW | _DELETE, "end": _UPDATE | _DELETE}
_INSTALL = "run `pgherald install`"
_VALUE = "value"


async def definitions(context: Context, rule: str) -> CheckResult:
    watched = await _watched(context, rule)
    if isinstance(watched, CheckResult):
        return watched
    configured = context.settings.rules[rule]
    rows = await context.rows(QUERIES["triggers"], {"rule": rule, "table": configured.table})
    missed = f"; then see what was missed: pgherald backfill {rule} --dry-run"
    by_row = watched["capture"] == "row"
    wanted = (_ROW_TRIGGERS if by_row else _STATEMENT_TRIGGERS) | (_PARTITIONED if watched["partitioned"] else {})
    if not by_row and watched["related"]:
        return fault(
            f"{configured.table} is captured per statement, and has come to be a partition, or to inherit",
            f'set capture = "row" in [rules.{rule}]; {_INSTALL}{missed}',
        )
    own = {(row["table"], row["name"]): row for row in rows if row["parent"] is None}
    for table in watched["tables"]:
        if missing := [kind for kind in wanted if (table, f"pgherald_{rule}_{kind}") not in own]:
            return fault(f"{_names(rule, missing)} on {table} is missing", _INSTALL + missed)
    if silent := [row for row in rows if row["enabled"] not in ("O", "A")]:
        which = " and ".join(f"{row['name']} on {row['table']}" for row in silent)
        how = "disabled" if any(row["enabled"] == "D" for row in silent) else "enabled for replication only"
        mend = "; ".join(f"ALTER TABLE {row['table']} ENABLE TRIGGER {row['name']}" for row in silent)
        return fault(f"{which} {'is' if len(silent) == 1 else 'are'} {how}", mend + missed)
    conditions = await _conditions(context, configured.becomes, watched)
    for row in own.values():
        kind = row["name"].removeprefix(f"pgherald_{rule}_")
        if kind not in wanted:
            what = "was added by hand, and calls the capture function"
        elif not row["captures"]:
            what = "calls another function"
        elif row["type"] != wanted[kind] or row["columns"] or row["constraint"]:
            what = "fires at other times than watch() says"
        elif (row["old_table"], row["new_table"]) != ((None, None) if by_row else _READS[kind]):
            what = "names its transition tables otherwise"
        elif _bare(row["condition"] or "") not in conditions[kind]:
            what = f"has another condition: {row['condition']}"
        else:
            continue
        return fault(f"{row['name']} on {row['table']} was changed: it {what}", _again(rule, configured, row) + missed)
    if watched["capture"] != configured.capture:
        return warn(f"capture is per {watched['capture']}, and configured per {configured.capture}", _INSTALL)
    return ok(f"on {configured.table}, enabled, as watch() makes them")


async def _watched(context: Context, rule: str) -> CheckResult | dict[str, Any]:
    context.need_schema()
    configured = context.settings.rules[rule]
    row = await context.row(QUERIES["watched"], watch_values(rule, configured))
    if not row["table_exists"]:
        return fault(f"there is no table {configured.table}", table_remedy(rule, configured))
    if row["watches"] is None:
        return fault(f"{configured.table} is not watched under this name", _INSTALL)
    if row["gone"]:
        context.stale.add(rule)
        return fault(
            f"{configured.table} has no column {row['gone']} any more, and every write that brings a row to the value fails",
            f"correct [rules.{rule}], then {_INSTALL}; or give the column its name back",
        )
    if not row["as_configured"]:
        return fault(
            f"the database watches {row['watches']}, not what is configured", f"{_INSTALL}, or correct [rules.{rule}]"
        )
    return row


def _names(rule: str, kinds: list[str]) -> str:
    return " and ".join(f"pgherald_{rule}_{kind}" for kind in kinds)


def _again(rule: str, configured: Rule, row: dict[str, Any]) -> str:
    """watch() leaves alone what is there and enabled: the trigger has to go first, in the same transaction."""
    return f"BEGIN; DROP TRIGGER {row['name']} ON {row['table']}; {watch_call(rule, configured)}; COMMIT"


async def _conditions(context: Context, value: str, watched: dict[str, Any]) -> dict[str, set[str]]:
    """What the server may make of watch()'s WHEN: a constant is shown with quotes or without, by its type."""
    try:
        types = {_VALUE: watched["type"] or "text"}
        row = sql.SQL("SELECT {} AS {}").format(keys.literal(value, _VALUE, types), sql.Identifier(_VALUE))
        query = sql.SQL("SELECT {} AS value FROM ({}) AS t").format(keys.value_text(_VALUE, types), row)
        value = (await context.row(query))["value"]
    except psycopg.DataError:
        pass
    if watched["capture"] == "statement":
        return {kind: {""} for kind in _STATEMENT_TRIGGERS}
    column = watched["column"]
    # As the server shows a constant: with standard_conforming_strings, a backslash is itself.
    quoted = "'" + value.replace("'", "''") + "'"
    made: dict[str, set[str]] = {"update": set(), "insert": set(), "delete": set(), "end": {""}}
    for constant in (quoted, value):
        made["insert"].add(_bare(f"new.{column} = {constant}"))
        made["delete"].add(_bare(f"old.{column} = {constant}"))
        made["update"].add(_bare(f"new.{column} = {constant} AND old.{column} IS DISTINCT FROM new.{column}"))
    return made


_CAST = re.compile(r'::(?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?(?: varying| precision| with(?:out)? time zone)?')


def _bare(condition: str) -> str:
    """An expression without what depends on the column's type and the search path: casts, brackets, blanks."""
    parts = re.split(r"('(?:[^']|'')*')", condition)
    for i in range(0, len(parts), 2):
        part = re.sub(r"OPERATOR\((?:[^()]*\.)?([^()\w.]+)\)", r"\1", parts[i])
        parts[i] = re.sub(r"[()\s]", "", _CAST.sub("", part))
    return "".join(parts)


async def capture(context: Context, rule: str) -> CheckResult:
    """The rule's capture function against what this database's pgherald.capture_body() writes."""
    context.need_schema()
    if rule in context.stale:
        raise NotChecked("it names a column that is gone")
    rows = await context.rows(QUERIES["capture"], {"rule": rule})
    if not rows:
        raise NotChecked("the rule is not watched")
    [row] = rows
    name = f"pgherald.capture_{rule}()"
    if row["body"] is None:
        return fault(f"{name} is missing", _INSTALL)
    if not row["may_compare"]:
        raise NotChecked(
            "this role may not call pgherald.capture_body()", "run doctor once as the owner of the schema pgherald"
        )
    expected = (await context.row(QUERIES["capture_body"], {"rule": rule}))["body"]
    if row["body"] != expected:
        return fault(f"{name} was changed: its body is not what watch() writes", _INSTALL)
    if not row["definer"]:
        return fault(
            f"{name} runs with the application's rights, so its writes fail", f"ALTER FUNCTION {name} SECURITY DEFINER"
        )
    if not row["owner_may_insert"]:
        return fault(
            f"{name} is owned by {row['owner']}, who may not write the outbox",
            f"ALTER FUNCTION {name} OWNER TO {row['outbox_owner']}",
        )
    return ok("as watch() makes it")


async def replication_role(context: Context) -> CheckResult:
    """With session_replication_role = replica, triggers do not fire and rows change unseen."""
    tables = [rule.table for rule in context.settings.rules.values()]
    rows = await context.rows(QUERIES["replication_role"], {"tables": tables})
    if not rows:
        return ok("triggers fire for every role that may write the watched tables")
    return fault(
        f"session_replication_role = replica {rows[0]['place']}: triggers do not fire there",
        f"{rows[0]['remedy']}, then end those sessions; see what was missed: pgherald backfill RULE --dry-run",
    )
