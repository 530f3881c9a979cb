"""SQL expressions for a rule's state on row `t`, and the trial of its conditions before they are installed."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from listener.config.rules import Rule
from listener.db import keys
from listener.db.errors import summary
from listener.db.owner import fetch_as_owner
from listener.db.queries import load
from listener.errors import SchemaError

# Parameters `rule` and `table`. Returns one row: the bound condition of a rule with `when`, and the columns it reads.
BOUND_STATE = load("admin")["bound_state"]
# The newest rows are the likeliest to change next. The primary key's index finds them.
TRIAL_ROWS = 1000


def in_state(rule: Rule, types: keys.Types, condition: str | None, columns: Sequence[str] | None) -> sql.Composed:
    """Return the condition that row `t` is in the state. `condition` and `columns` are the answer to `BOUND_STATE`.

    A rule that is not watched has no bound condition. Every row counts as in its state.
    """
    if not rule.when:
        values = [keys.equals(rule.column, value, types) for value in rule.becomes]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(values))
    names = ", ".join(f"t.{column}" for column in columns) if columns else "t.*"
    return sql.SQL("(SELECT {} FROM (SELECT {}) AS new)").format(
        sql.SQL(condition or "true"),
        sql.SQL(names),
    )


def conditions(rule: Rule) -> dict[str, str]:
    """Return the rule's conditions by their key in the configuration."""
    return {key: text for key, text in (("when", rule.when), ("from", rule.left)) if text}


def trial(rule: Rule, key: str, *, nulls: bool = False) -> sql.Composed:
    """Return the query that computes a condition for the newest rows, or for a row of NULLs."""
    table, record = sql.SQL(rule.table), sql.SQL("new" if key == "when" else "old")
    if nulls:
        rows = sql.SQL("SELECT (NULL::{}).*").format(table)
    else:
        order = sql.SQL(", ").join(sql.SQL("{} DESC").format(sql.Identifier(column)) for column in rule.key)
        rows = sql.SQL("SELECT * FROM {} ORDER BY {} LIMIT {}").format(table, order, sql.Literal(TRIAL_ROWS))
    return sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS {} WHERE (\n{}\n)").format(
        rows,
        record,
        sql.SQL(conditions(rule)[key]),
    )


def try_conditions(conn: psycopg.Connection[Any], rules: Mapping[str, Rule]) -> list[str]:
    """Compute every condition for the newest rows of its table. Return a warning for each that fails for NULL.

    In a trigger, a condition that fails would fail the application's write.

    Raises:
        SchemaError: A condition fails for a row, or is not valid. The message names the rule.
    """
    warnings = []
    for name, rule in rules.items():
        for key in conditions(rule):
            try:
                fetch_as_owner(conn, rule.table, trial(rule, key))
            except (psycopg.DataError, errors.ProgrammingError) as exc:
                raise SchemaError(failure(name, key, rule, exc)) from exc
            try:
                fetch_as_owner(conn, rule.table, trial(rule, key, nulls=True))
            except psycopg.DataError as exc:
                warnings.append(null_failure(name, key, rule, exc))
    return warnings


def failure(name: str, key: str, rule: Rule, exc: psycopg.Error) -> str:
    """Return the message about a condition that fails. The server's message about a value would quote the row."""
    if isinstance(exc, psycopg.DataError):
        return (
            f"rule {name}: `{key}` fails for a row of {rule.table}: {_kind(exc)}; the application's write of such a row "
            "would fail; write a condition that holds for no row that it cannot read, by CASE"
        )
    return f"rule {name}: `{key}`: {summary(exc)}; correct [rules.{name}] {key}"


def null_failure(name: str, key: str, rule: Rule, exc: psycopg.Error) -> str:
    """Return the warning about a condition that fails for a row of NULLs."""
    return (
        f"rule {name}: `{key}` fails for a row of NULLs: {_kind(exc)}; if columns of {rule.table} may be NULL, "
        "write a condition that allows it"
    )


def _kind(exc: psycopg.Error) -> str:
    return f"{type(exc).__name__} (SQLSTATE {exc.sqlstate})"
