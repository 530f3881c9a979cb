"""The triggers and capture functions of a rule: present, enabled, and as pgherald.watch() creates them."""

import re
from typing import Any

import psycopg
from psycopg import sql

from listener.config.rules import Rule
from listener.db import keys
from listener.db.install import watch_call
from listener.db.schema import WATCHED, rewatch_remedy, table_remedy, watch_values
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, NotChecked, fault, ok, warn

# Bits of pg_trigger.tgtype: https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_trigger.h
_ROW, _INSERT, _DELETE, _UPDATE = 1, 4, 8, 16
_ROW_TRIGGERS = {"update": _ROW | _UPDATE, "insert": _ROW | _INSERT}
_STATEMENT_TRIGGERS = {"update": _UPDATE, "insert": _INSERT}
# The transition tables that the capture function reads: the rows before the change, and after it.
_TRANSITION_TABLES = {"update": ("old_rows", "new_rows"), "insert": (None, "new_rows")}
_PARTITIONED = {"delete": _ROW | _DELETE, "end": _UPDATE | _DELETE}
_LEAVING = {"from": _ROW | _DELETE}
_INSTALL = "run `pgherald install`"


async def definitions(context: Context, rule: str) -> Finding:
    """Compare the triggers on the watched table with those that pgherald.watch() creates."""
    watched = await _watched(context, rule)
    if isinstance(watched, Finding):
        return watched
    configured = context.settings.rules[rule]
    rows = await context.rows(QUERIES["triggers"], {"rule": rule, "table": configured.table})
    backfill = f"; then check for missed rows: pgherald backfill {rule} --dry-run"
    by_row = watched["capture"] == "row"
    wanted = (_ROW_TRIGGERS if by_row else _STATEMENT_TRIGGERS) | (_PARTITIONED if watched["partitioned"] else {})
    wanted |= _LEAVING if watched["partitioned"] and watched["leaving"] else {}
    if not by_row and watched["related"]:
        return fault(
            f"{configured.table} uses statement-level capture but is now a partition or part of an inheritance tree",
            f'set capture = "row" in [rules.{rule}]; {_INSTALL}{backfill}',
        )
    own = {(row["table"], row["name"]): row for row in rows if row["parent"] is None}
    for table in watched["tables"]:
        if missing := [kind for kind in wanted if (table, f"pgherald_{rule}_{kind}") not in own]:
            return fault(f"{_names(rule, missing)} on {table} is missing", _INSTALL + backfill)
    if disabled := [row for row in rows if row["enabled"] not in ("O", "A")]:
        which = " and ".join(f"{row['name']} on {row['table']}" for row in disabled)
        how = "disabled" if any(row["enabled"] == "D" for row in disabled) else "enabled for replication only"
        remedy = "; ".join(f"ALTER TABLE {row['table']} ENABLE TRIGGER {row['name']}" for row in disabled)
        return fault(f"{which} {'is' if len(disabled) == 1 else 'are'} {how}", remedy + backfill)
    types = await context.column_types(configured)
    if renamed := [column for column in configured.columns if column not in types]:
        place = "column" if renamed[0] == configured.column else "changes"
        return fault(
            f"{renamed[0]} of {configured.table} was renamed: the triggers follow the new name",
            f"set `{place}` in [rules.{rule}] to the new name, then run `pgherald rewatch {rule}`",
        )
    conditions = await _conditions(context, rule, types, backfill)
    if isinstance(conditions, Finding):
        return conditions
    for row in own.values():
        kind = row["name"].removeprefix(f"pgherald_{rule}_")
        if kind not in wanted:
            what = "calls the capture function, but pgherald does not create a trigger of this name"
        elif not row["captures"]:
            what = "calls another function than the capture function"
        elif row["type"] != wanted[kind] or row["columns"] or row["constraint"]:
            what = "fires at other times than pgherald's trigger"
        elif (row["old_table"], row["new_table"]) != ((None, None) if by_row else _TRANSITION_TABLES[kind]):
            what = "has other transition tables than pgherald's trigger"
        elif _bare(row["condition"] or "") != (_bare(conditions[kind]) if by_row else ""):
            what = f"has another condition: {row['condition']}"
        else:
            continue
        return fault(
            f"{row['name']} on {row['table']} was changed by hand: it {what}",
            _recreate(rule, configured, row) + backfill,
        )
    if watched["capture"] != configured.capture:
        return warn(
            f'the triggers capture per {watched["capture"]}, but [rules.{rule}] says capture = "{configured.capture}"',
            _INSTALL,
        )
    return ok(f"on {configured.table}, enabled and unchanged")


async def _watched(context: Context, rule: str) -> Finding | dict[str, Any]:
    context.require_schema()
    configured = context.settings.rules[rule]
    values = watch_values(rule, configured)
    row = await context.row(WATCHED, values) | await context.row(QUERIES["watched_table"], values)
    if not row["table_exists"]:
        return fault(f"table {configured.table} does not exist", table_remedy(rule, configured))
    if row["watches"] is None:
        return fault(f"the rule is not installed: {configured.table} has no triggers for it", _INSTALL)
    if row["gone"]:
        context.missing_column.add(rule)
        return fault(
            f"{configured.table} no longer has column {row['gone']}, so nothing is captured",
            f"correct [rules.{rule}], then run `pgherald rewatch {rule}`; or rename the column back",
        )
    if not row["as_configured"]:
        return fault(
            f"the database watches {row['watches']}, which differs from [rules.{rule}]",
            f"{rewatch_remedy(rule)}; or correct [rules.{rule}]",
        )
    return row


def _names(rule: str, kinds: list[str]) -> str:
    return " and ".join(f"pgherald_{rule}_{kind}" for kind in kinds)


def _recreate(rule: str, configured: Rule, row: dict[str, Any]) -> str:
    """Return the statements that recreate a trigger in one transaction. watch() keeps an enabled trigger, so drop it first."""
    return f"BEGIN; DROP TRIGGER {row['name']} ON {row['table']}; {watch_call(rule, configured)}; COMMIT"


async def _conditions(context: Context, rule: str, types: keys.Types, backfill: str) -> Finding | dict[str, str]:
    """Return the condition of each kind of row trigger, or a finding if the state has got another name meanwhile."""
    configured = context.settings.rules[rule]
    shown = []
    for value in configured.becomes:
        type_ = types[configured.column]
        text = keys.as_text(keys.literal(value, type_), type_)
        try:
            shown.append((await context.row(sql.SQL("SELECT {} AS value").format(text)))["value"])
        except psycopg.DataError:
            return fault(
                f"{value!r} is no value of type {type_.name}, the type of {configured.table}.{configured.column}",
                f"set `becomes` in [rules.{rule}] to the value's present name, then run `pgherald rewatch {rule}`{backfill}",
            )
    row = await context.row(QUERIES["trigger_conditions"], {"rule": rule, "shown": shown or None})
    if row["bound"] is not None and _bare(row["now"]) != _bare(row["bound"]):
        return fault(
            f"the triggers have the state {row['now']}, and the rule was installed with {row['bound']}: a column or an "
            "enum's value was renamed, or a trigger was changed by hand",
            f"set `when` in [rules.{rule}] to the new name, then run `pgherald rewatch {rule}`",
        )
    return {
        "update": row["on_update"],
        "insert": row["on_insert"],
        "delete": row["on_delete"],
        "from": row["on_leave"] or "",
        "end": "",
    }


_CAST = re.compile(r'::(?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?(?: varying| precision| with(?:out)? time zone)?(?:\[\])*')


def _bare(condition: str) -> str:
    """Return an expression without casts, brackets, quotes and blanks. They depend on the types and the search path."""
    parts = re.split(r"((?:\bE)?'(?:[^']|'')*')", condition)
    for i in range(0, len(parts), 2):
        part = re.sub(r"OPERATOR\((?:[^()]*\.)?([^()\w.]+)\)", r"\1", parts[i])
        parts[i] = re.sub(r"[()\s]", "", _CAST.sub("", part)).replace("NEW.", "new.").replace("OLD.", "old.")
    # The server shows a number without quotes.
    parts[1::2] = [_unquoted(part) for part in parts[1::2]]
    return "".join(parts)


def _unquoted(literal: str) -> str:
    # quote_literal() writes E'…' if there is a backslash, and doubles it. The server shows it as it is.
    return literal[2:-1].replace("\\\\", "\\") if literal.startswith("E") else literal[1:-1]


async def capture(context: Context, rule: str) -> Finding:
    """Compare the rule's capture function with the body that pgherald.capture_body() generates for it."""
    context.require_schema()
    if rule in context.missing_column:
        raise NotChecked("the capture function uses a column that no longer exists")
    rows = await context.rows(QUERIES["capture"], {"rule": rule})
    if not rows:
        raise NotChecked("the rule is not installed")
    [row] = rows
    name = f"pgherald.capture_{rule}()"
    if row["body"] is None:
        return fault(f"{name} is missing", _INSTALL)
    if not row["may_compare"]:
        raise NotChecked(
            "this role may not execute pgherald.capture_body()", "run doctor as the owner of schema pgherald"
        )
    expected = await context.rows(QUERIES["capture_body"], {"rule": rule})
    if not expected:
        raise NotChecked("the watched table was dropped")
    if row["body"] != expected[0]["body"]:
        return fault(f"{name} was changed by hand: its body differs from the generated one", _INSTALL)
    if not row["definer"]:
        return fault(
            f"{name} runs with the application's rights, so the application's writes fail",
            f"ALTER FUNCTION {name} SECURITY DEFINER",
        )
    if not row["owner_may_insert"]:
        return fault(
            f"{name} is owned by {row['owner']}, which may not INSERT into pgherald.inbox",
            f"ALTER FUNCTION {name} OWNER TO {row['inbox_owner']}",
        )
    if not row["owner_may_use_schema"]:
        return fault(
            f"{name} is owned by {row['owner']}, which may not use schema pgherald, so the application's writes fail",
            f"GRANT USAGE ON SCHEMA pgherald TO {row['owner']}",
        )
    if row["may_not_partition"] is not None:
        return fault(
            f"{row['may_not_partition']}, the owner of the partitioned table, may not execute {name}, so it can neither "
            "create nor attach a partition",
            _INSTALL,
        )
    return ok(f"{name} is unchanged")


async def replication_role(context: Context) -> Finding:
    """Look for session_replication_role = replica. Ordinary triggers do not fire then, and changes are missed."""
    tables = [rule.table for rule in context.settings.rules.values()]
    rows = await context.rows(QUERIES["replication_role"], {"tables": tables})
    if not rows:
        return ok("triggers fire for every role that may write the watched tables")
    return fault(
        f"session_replication_role = replica is set {rows[0]['place']}, so triggers do not fire there",
        f"{rows[0]['remedy']}, then end those sessions and check for missed rows: pgherald backfill RULE --dry-run",
    )
