"""Checks of the installed schema and of the rules' tables against the configuration."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import errors

from listener.config.rules import Rule, default_rules
from listener.db.errors import summary
from listener.db.queries import load
from listener.db.schema_version import SchemaVersion, usable_version
from listener.errors import SchemaError

_QUERIES = load("admin")
# Its parameters are those of `watch_values`.
WATCHED = _QUERIES["watched"]
# `watch()` creates one trigger for UPDATE and one for INSERT. A partitioned table has two more, which `doctor` checks.
MIN_TRIGGERS = 2
_INSTALL = "run `pgherald install`"


def check_tables(conn: psycopg.Connection[Any], rules: Mapping[str, Rule]) -> None:
    """Verify that every rule's table and columns exist, so that `install` does not stop halfway.

    Raises:
        SchemaError: One is missing. The message names the rule and the remedy.
    """
    for name, rule in rules.items():
        try:
            row = conn.execute(
                _QUERIES["missing_columns"], {"table": rule.table, "columns": list(rule.columns)}
            ).fetchone()
        except errors.InsufficientPrivilege as exc:
            conn.rollback()
            remedy = rights_remedy(conn, rule.table) or "grant it to the role that runs `pgherald install`"
            raise SchemaError(f"rule {name}: {summary(exc)}; {remedy}") from exc
        assert row is not None
        table_exists, missing = row
        if not table_exists:
            raise SchemaError(f"rule {name}: there is no table {rule.table}; {table_remedy(name, rule)}")
        if missing:
            raise SchemaError(
                f'rule {name}: table {rule.table} has no column "{missing[0]}"; {table_remedy(name, rule)}'
            )


def rights_remedy(conn: psycopg.Connection[Any], table: str | None) -> str:
    """Return which rights this role lacks to install or to watch this table, as a remedy. Return "" if it has them all."""
    found = conn.execute(_QUERIES["missing_rights"], {"table": table}).fetchone()
    assert found is not None
    role, owners, by_superuser, database = found
    if by_superuser:
        return "connect as a superuser"
    if len(owners) > 1:
        return f"connect as a superuser, or as a member of {' and '.join(owners)}"
    lacks = [*([f"CREATE ON DATABASE {database}"] if database else []), *owners]
    return f"as an administrator: {'; '.join(f'GRANT {each} TO {role}' for each in lacks)}" if lacks else ""


async def verify(conn: psycopg.AsyncConnection[Any], rules: Mapping[str, Rule]) -> SchemaVersion:
    """Return the schema's version if this pgherald can use it and the database watches every rule as configured.

    Raises:
        SchemaError: Either is not the case. The message names each such rule and says what to run.
    """
    version = await usable_version(conn)
    if problems := await capture_problems(conn, rules):
        raise SchemaError("; ".join(problems.values()))
    return version


async def capture_problems(conn: psycopg.AsyncConnection[Any], rules: Mapping[str, Rule]) -> dict[str, str]:
    """Return by rule what keeps the database from capturing its events, and the remedy. Rules without a problem are left out.

    The start, a reload, the readiness probe, the log and the metrics all judge by this function.
    """
    try:
        problems = {name: await _capture_problem(conn, name, rule) for name, rule in rules.items()}
    except (errors.InvalidSchemaName, errors.UndefinedTable):
        return {name: f"rule {name}: pgherald is not installed in this database; {_INSTALL}" for name in rules}
    return {name: problem for name, problem in problems.items() if problem is not None}


async def _capture_problem(conn: psycopg.AsyncConnection[Any], name: str, rule: Rule) -> str | None:
    watched = await (await conn.execute(WATCHED, watch_values(name, rule))).fetchone()
    assert watched is not None
    as_configured, table_exists, watches, _, triggers, gone, disabled, lacks = watched
    if not table_exists:
        return f"rule {name}: there is no table {rule.table}; {table_remedy(name, rule)}"
    if watches is None:
        return f"rule {name} is not watched in this database; {_INSTALL}"
    if not as_configured:
        return f"rule {name}: the database watches {watches}, not what is configured; {rewatch_remedy(name)}"
    if triggers < MIN_TRIGGERS:
        return f"rule {name}: its triggers on {rule.table} are missing or disabled; {_INSTALL}"
    if gone is not None:
        return f"rule {name}: {rule.table} no longer has column {gone}; correct [rules.{name}], then {_rewatch(name)}"
    if disabled is not None:
        return f"rule {name}: its triggers on {disabled} are disabled; ALTER TABLE {disabled} ENABLE TRIGGER …"
    if lacks is not None:
        return f"rule {name}: the owner of its capture function has lost a right; GRANT {lacks}"
    return None


def table_remedy(name: str, rule: Rule) -> str:
    """Return what to do about a rule that does not fit the database's tables."""
    if rule == default_rules().get(name):
        return "run `pgherald init` to write a pgherald.toml for your own tables"
    return f"correct [rules.{name}]"


def rewatch_remedy(name: str) -> str:
    """Return what to do about a rule that the database watches otherwise than configured."""
    return (
        f"{_rewatch(name)} if the table, a column or a value was renamed or replaced, "
        "or `pgherald install` if the rule is to start from the beginning"
    )


def _rewatch(name: str) -> str:
    return f"run `pgherald rewatch {name}`"


def watch_values(name: str, rule: Rule) -> dict[str, Any]:
    """Return the parameters of the query `watched`."""
    return {
        "rule": name,
        "table": rule.table,
        "key": list(rule.key),
        "column": None if rule.when else rule.column,
        "becomes": None if rule.when else list(rule.becomes),
        "when": rule.when or None,
        "from": rule.left or None,
        "changes": list(rule.changes),
    }


def installed(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the rules that this database watches."""
    return [name for (name,) in conn.execute(_QUERIES["rules"])]


def unconfigured(conn: psycopg.Connection[Any], rules: Mapping[str, Rule]) -> list[str]:
    """Return the rules that this database watches and the configuration does not have: nobody delivers their events."""
    return [name for name in installed(conn) if name not in rules]


def roles(conn: psycopg.Connection[Any]) -> list[str]:
    """Return those roles of roles.sql that the cluster has."""
    return [name for (name,) in conn.execute(_QUERIES["our_roles"])]


def publications(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the publications that copy the outbox to subscribers."""
    return [name for (name,) in conn.execute(_QUERIES["publications"])]


def stored_events(conn: psycopg.Connection[Any]) -> tuple[int, int] | None:
    """Return how many events there are, and how many of them are not settled. None: there is no schema."""
    try:
        row = conn.execute(_QUERIES["stored_events"]).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return None
    assert row is not None
    return int(row[0]), int(row[1])


async def secret(conn: psycopg.AsyncConnection[Any]) -> bytes:
    """Return the database's secret, which signs unsubscribe links and makes Message-IDs hard to guess.

    Raises:
        SchemaError: The table is empty.
    """
    return _secret_of(await (await conn.execute(_QUERIES["secret"])).fetchone())


def read_secret(conn: psycopg.Connection[Any]) -> bytes:
    """Return the same as `secret`.

    Raises:
        SchemaError: The table is empty.
    """
    return _secret_of(conn.execute(_QUERIES["secret"]).fetchone())


def _secret_of(row: tuple[Any, ...] | None) -> bytes:
    if row is None:
        raise SchemaError("pgherald.secret is empty; run `pgherald install`")
    return bytes(row[0].replace("-", ""), "ascii")
