"""The database objects: put there, looked at, taken away."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from listener.config.rules import Rule, default_rules
from listener.db.connection import PATH
from listener.db.errors import is_unavailable, summary
from listener.db.locks import INSTALLER
from listener.db.queries import load
from listener.db.schema_version import SchemaVersion, usable_version
from listener.errors import DatabaseUnavailable, SchemaError
from listener.printable import excerpt
from listener.resources import resource
from listener.retry import backoff

LOCK_TIMEOUT = 2.0
# Of the 30 s within which `install` gives up; the rest is for its start and for what waits for nobody.
PATIENCE = 25.0
_QUERIES = load("admin")
# Of a step that does not pin the path for itself, as the files do: what `--print` shows may be run by psql.
_SECURED = f"SET LOCAL search_path = {PATH};\n"


@dataclass(frozen=True, slots=True)
class InstallStep:
    """SQL that runs by itself: as one transaction, or, where it commits on its own, outside of any."""

    title: str
    text: str
    table: str | None = None
    transaction: bool = True

    def __str__(self) -> str:
        if not self.transaction:
            return f"-- {self.title}\n{self.text}\n"
        return f"-- {self.title}\nBEGIN;\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT:g}s';\n{self.text}\nCOMMIT;\n"


def check_tables(conn: psycopg.Connection[Any], rules: Mapping[str, Rule]) -> None:
    """Verify that every rule's table and columns are there, so that `install` does not stop halfway.

    Raises:
        SchemaError: one is not; names the rule and the remedy.
    """
    for name, rule in rules.items():
        try:
            row = conn.execute(
                _QUERIES["missing_columns"], {"table": rule.table, "columns": [*rule.key, rule.column]}
            ).fetchone()
        except errors.InsufficientPrivilege as exc:
            raise SchemaError(
                f"rule {name}: {summary(exc)}; grant it to the role that runs `pgherald install`"
            ) from exc
        assert row is not None
        table_exists, missing = row
        if not table_exists:
            raise SchemaError(f"rule {name}: there is no table {rule.table}; {table_remedy(name, rule)}")
        if missing:
            raise SchemaError(
                f'rule {name}: table {rule.table} has no column "{missing[0]}"; {table_remedy(name, rule)}'
            )


def table_remedy(name: str, rule: Rule) -> str:
    """Return what to do about a rule that does not fit the database's tables."""
    if rule == default_rules().get(name):
        return "run `pgherald init` to write a pgherald.toml for your own tables"
    return f"correct [rules.{name}]"


def install_steps(
    rules: Mapping[str, Rule], *, roles: bool = False, daemon_role: str | None = None
) -> Iterator[InstallStep]:
    """What `install` runs, in order; each step may be run again without harm."""
    yield InstallStep("triggers.sql", _file("triggers.sql"), table="pgherald.outbox")
    if roles:
        yield InstallStep("roles.sql", _file("roles.sql"))
    if daemon_role is not None:
        yield InstallStep(
            f"rights of {daemon_role}",
            _SECURED + daemon_grants().replace("pgherald_daemon", _as_text(sql.Identifier(daemon_role))),
        )
    for name, rule in rules.items():
        yield InstallStep(f"rule {name}", f"{_SECURED}{watch_call(name, rule)};", table=rule.table)
    # After all that waits for locks: it may take its time, and the locks' time is short.
    for name in rules:
        yield InstallStep(
            f"rows that are in the value already; page by page, nothing held (rule {name})",
            f"DO $$ DECLARE more pg_catalog.bool; BEGIN "
            f"LOOP CALL pgherald.snapshot_existing('{name}', more => more); EXIT WHEN NOT more; END LOOP; END $$;",
            transaction=False,
        )


def daemon_grants() -> str:
    """Return what roles.sql grants to pgherald_daemon."""
    _, grant, rest = _file("roles.sql").partition("GRANT USAGE")
    return grant + rest.partition("\nDO $$")[0]


def watch_call(name: str, rule: Rule) -> str:
    return _as_text(
        sql.SQL("SELECT pgherald.watch({}, {}, {}, {}, {}, {})").format(
            *map(sql.Literal, (name, rule.table, list(rule.key), rule.column, rule.becomes, rule.capture))
        )
    )


def uninstall_steps(rules: Mapping[str, Rule]) -> Iterator[InstallStep]:
    yield InstallStep(
        "uninstall.sql", _file("uninstall.sql"), table=next((rule.table for rule in rules.values()), None)
    )


def _file(name: str) -> str:
    return resource(f"sql/{name}").read_text(encoding="utf-8")


def _as_text(part: sql.Composable) -> str:
    return part.as_string(None)


def run(
    conn: psycopg.Connection[Any], step: InstallStep, tell: Callable[[str], None], end: float | None = None
) -> None:
    """Run one step, trying until `end` to get its locks, each time for 2 s only, so that nobody queues behind it for longer.

    `end` is by `time.monotonic`; without it, `PATIENCE` from now.

    Raises:
        SchemaError: it cannot be done; names who is in the way.
    """
    end = time.monotonic() + PATIENCE if end is None else end
    attempt = 0
    while True:
        try:
            # By a plain cursor: the step begins and ends its own transaction.
            psycopg.Cursor(conn).execute(str(step))
        except errors.LockNotAvailable as exc:
            conn.rollback()
            attempt += 1
            pause = backoff(attempt, first=0.2, longest=2.0)
            blocker = _blocker(conn, step.table)
            if time.monotonic() + pause + LOCK_TIMEOUT > end:
                raise SchemaError(
                    f"{step.title}: gave up after {PATIENCE:g} s waiting for a lock{blocker}; try again when it is done"
                ) from exc
            tell(f"{step.title}: waiting for a lock{blocker}")
            time.sleep(pause)
        except psycopg.Error as exc:
            if is_unavailable(exc):
                raise DatabaseUnavailable(summary(exc)) from exc
            raise _failure(step, exc) from exc
        else:
            return


def _blocker(conn: psycopg.Connection[Any], table: str | None) -> str:
    # The installers' lock comes first. Anybody may hold it.
    if row := conn.execute(_QUERIES["lock_holder"], INSTALLER._asdict()).fetchone():
        pid, user, application = row
        return (
            f" that every installer takes, held by pid {pid} (user {excerpt(user)}, application {excerpt(application)});"
            f" if that is no installer: SELECT pg_terminate_backend({pid})"
        )
    row = conn.execute(_QUERIES["blocking_sessions"], {"table": table}).fetchone() if table else None
    return f" on {table}, held by pid {row[0]} (user {row[1]}): {row[2]}" if row else ""


def _failure(step: InstallStep, exc: psycopg.Error) -> SchemaError:
    message = exc.diag.message_primary or summary(exc)
    hint = f" ({exc.diag.message_hint})" if exc.diag.message_hint else ""
    return SchemaError(message + hint if message.startswith("rule ") else f"{step.title}: {message}{hint}")


def unconfigured(conn: psycopg.Connection[Any], rules: Mapping[str, Rule]) -> list[str]:
    """Rules that this database watches and nobody delivers."""
    return [name for (name,) in conn.execute(_QUERIES["rules"]) if name not in rules]


def unsettled(conn: psycopg.Connection[Any]) -> int | None:
    """How many events would be lost with the schema; None where there is no schema."""
    try:
        row = conn.execute(_QUERIES["unsettled"]).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return None
    assert row is not None
    return int(row[0])


async def verify(conn: psycopg.AsyncConnection[Any], rules: Mapping[str, Rule]) -> SchemaVersion:
    """Return the schema's version if this pgherald can use it and the database watches every rule as configured.

    Raises:
        SchemaError: One of both is not so. The message says what to run.
    """
    version = await usable_version(conn)
    for name, rule in rules.items():
        watched = await (await conn.execute(_QUERIES["watched"], watch_values(name, rule))).fetchone()
        assert watched is not None
        as_configured, table_exists, watches, _, triggers = watched
        if not table_exists:
            raise SchemaError(f"rule {name}: there is no table {rule.table}; {table_remedy(name, rule)}")
        if watches is None:
            raise SchemaError(f"rule {name} is not watched in this database; run `pgherald install`")
        if not as_configured:
            raise SchemaError(
                f"rule {name}: the database watches {watches}, not what is configured; run `pgherald install`"
            )
        if triggers < 2:
            raise SchemaError(
                f"rule {name}: its triggers on {rule.table} are missing or disabled; run `pgherald install`"
            )
    return version


def watch_values(name: str, rule: Rule) -> dict[str, Any]:
    return {"rule": name, "table": rule.table, "key": list(rule.key), "column": rule.column, "value": rule.becomes}


async def secret(conn: psycopg.AsyncConnection[Any]) -> bytes:
    row = await (await conn.execute(_QUERIES["secret"])).fetchone()
    if row is None:
        raise SchemaError("pgherald.secret is empty; run `pgherald install`")
    return bytes(re.sub("-", "", row[0]), "ascii")
