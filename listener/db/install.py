"""Installation and removal of the database objects, one step after another."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from listener.config.rules import Rule
from listener.db.connection import PATH
from listener.db.errors import is_unavailable, summary
from listener.db.locks import INSTALLER
from listener.db.queries import load
from listener.db.schema import rights_remedy
from listener.errors import DatabaseUnavailable, SchemaError
from listener.printable import excerpt
from listener.resources import resource
from listener.retry import backoff

# While a statement waits for a table's lock, all that want the table after it wait too. Nobody waits longer than this.
LOCK_TIMEOUT_S = 2.0
# `install` gives up within 30 s. The rest of these is for its start and for the steps that take no lock.
INSTALL_TIMEOUT_S = 25.0
# Pauses between tries to get a lock.
_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 2.0
_QUERIES = load("admin")
# For steps that do not pin the search path themselves, as the files do. `install --print` shows it for psql.
_SECURED = f"SET LOCAL search_path = {PATH};\n"


@dataclass(frozen=True, slots=True)
class InstallStep:
    """SQL that runs as one transaction, or outside any if it commits on its own. `table` is what it has to lock.

    `generates`: the SQL is a query that returns statements, and each of these runs outside a transaction.
    """

    title: str
    text: str
    table: str | None = None
    transaction: bool = True
    generates: bool = False

    def __str__(self) -> str:
        if self.generates:
            return f"-- {self.title}\n{self.text} \\gexec\n"
        if not self.transaction:
            return f"-- {self.title}\n{self.text}\n"
        return f"-- {self.title}\nBEGIN;\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT_S:g}s';\n{self.text}\nCOMMIT;\n"


def install_steps(
    rules: Mapping[str, Rule], *, roles: bool = False, daemon_role: str | None = None
) -> Iterator[InstallStep]:
    """Yield the steps of `install` in order. Each may be run again without harm.

    `roles` adds the roles of roles.sql. `daemon_role` is a role of your own that gets the daemon's rights.
    """
    yield InstallStep("triggers.sql", _file("triggers.sql"), table="pgherald.outbox")
    yield InstallStep(
        "indexes that an outbox with events lacks; built beside the writers, after the transactions open now",
        "SELECT pgherald.missing_indexes()",
        table="pgherald.outbox",
        transaction=False,
        generates=True,
    )
    if roles:
        yield InstallStep("roles.sql", _file("roles.sql"))
    if daemon_role is not None:
        yield InstallStep(
            f"rights of {daemon_role}",
            _SECURED + daemon_grants().replace("pgherald_daemon", _as_text(sql.Identifier(daemon_role))),
        )
    for name, rule in rules.items():
        yield InstallStep(f"rule {name}", f"{_SECURED}{watch_call(name, rule)};", table=rule.table)
    # Last, because it may take long and waits for no lock. The time for locks is short.
    for name in rules:
        yield InstallStep(
            f"rows that are in the state already; page by page, nothing held (rule {name})",
            f"DO $$ DECLARE more pg_catalog.bool; BEGIN "
            f"LOOP CALL pgherald.snapshot_existing('{name}', more => more); EXIT WHEN NOT more; END LOOP; END $$;",
            transaction=False,
        )


def rewatch_step(rules: Mapping[str, Rule], alter: str | None = None) -> InstallStep:
    """Return the step of `rewatch`: without the triggers of these rules, run `alter`; then create the triggers again.

    All of it is one transaction. Others wait for the table from its first lock to its end.
    """
    parts = [_SECURED.rstrip()]
    if alter is not None:
        parts += (f"SELECT pgherald.drop_triggers('{name}');" for name in rules)
        parts.append(f"{alter.strip().rstrip(';')};")
    parts += (f"{watch_call(name, rule, function='rewatch')};" for name, rule in rules.items())
    title = f"rewatch {', '.join(rules)}"
    return InstallStep(title, "\n".join(parts), table=next(iter(rules.values())).table)


def uninstall_steps(rules: Mapping[str, Rule]) -> Iterator[InstallStep]:
    """Yield the one step of `uninstall`."""
    yield InstallStep(
        "uninstall.sql", _file("uninstall.sql"), table=next((rule.table for rule in rules.values()), None)
    )


def daemon_grants() -> str:
    """Return the statements of roles.sql that give the daemon's role its rights."""
    _, grant, rest = _file("roles.sql").partition("\nGRANT USAGE")
    return grant.lstrip() + rest.partition("\nDO $$")[0]


def watch_call(name: str, rule: Rule, *, function: str = "watch") -> str:
    """Return the statement that creates the rule's triggers, by `watch` or `rewatch`."""
    return _as_text(
        sql.SQL("SELECT pgherald.{}({}, {}, {}, {}, capture => {})").format(
            sql.SQL(function),
            *map(sql.Literal, (name, rule.table, list(rule.key))),
            sql.SQL(", ").join(_state_arguments(rule)),
            sql.Literal(rule.capture),
        )
    )


def _state_arguments(rule: Rule) -> Iterator[sql.Composable]:
    """Yield the arguments of `watch` that say the state, without those that have their default."""
    if rule.when:
        yield sql.SQL('"when" => {}').format(sql.Literal(rule.when))
    else:
        yield sql.SQL('"column" => {}, becomes => {}').format(sql.Literal(rule.column), sql.Literal(list(rule.becomes)))
    if rule.left:
        yield sql.SQL('"from" => {}').format(sql.Literal(rule.left))
    if rule.changes:
        yield sql.SQL("changes => {}").format(sql.Literal(list(rule.changes)))


def run(
    conn: psycopg.Connection[Any], step: InstallStep, tell: Callable[[str], None], end: float | None = None
) -> None:
    """Run one step, trying again until it gets its locks.

    Each try waits for a lock for two seconds only, so that the sessions queued behind it wait no longer. `tell` is
    called with a line of text before each further try. `end` is the end of all tries, by `time.monotonic`. By default
    it is `INSTALL_TIMEOUT_S` from now.

    Raises:
        SchemaError: The step failed, or a lock was held until the end. The message names the holder.
        DatabaseUnavailable: The server or the network failed.
    """
    end = time.monotonic() + INSTALL_TIMEOUT_S if end is None else end
    attempt = 0
    while True:
        try:
            _execute(conn, step, tell)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as exc:
            conn.rollback()
            attempt += 1
            pause = backoff(attempt, first=_FIRST_RETRY_S, longest=_LONGEST_RETRY_S)
            blocker = _blocker(conn, step.table)
            if time.monotonic() + pause + LOCK_TIMEOUT_S > end:
                raise SchemaError(
                    f"{step.title}: gave up after {INSTALL_TIMEOUT_S:g} s waiting for a lock{blocker}; "
                    "try again when it is released"
                ) from exc
            tell(f"{step.title}: waiting for a lock{blocker}")
            time.sleep(pause)
        except psycopg.Error as exc:
            if is_unavailable(exc):
                raise DatabaseUnavailable(summary(exc)) from exc
            conn.rollback()
            remedy = rights_remedy(conn, step.table) if isinstance(exc, errors.InsufficientPrivilege) else ""
            raise _failure(step, exc, remedy and f"; {remedy}") from exc
        else:
            return


def _execute(conn: psycopg.Connection[Any], step: InstallStep, tell: Callable[[str], None]) -> None:
    # A plain cursor, because the step begins and ends its own transaction.
    if not step.generates:
        psycopg.Cursor(conn).execute(str(step))
        return
    for (statement,) in conn.execute(step.text).fetchall():
        tell(f"{statement.partition(' ON ')[0]}: waits for open transactions; writers do not wait")
        psycopg.Cursor(conn).execute(statement)


def _blocker(conn: psycopg.Connection[Any], table: str | None) -> str:
    """Return the end of a message about a lock: which one it is, and which session holds it."""
    # Each step takes the installers' lock first. Another client may hold it without being an installer.
    if row := conn.execute(_QUERIES["lock_holder"], INSTALLER._asdict()).fetchone():
        pid, user, application = row
        return (
            f" that every installer takes, held by pid {pid} (user {excerpt(user)}, "
            f"application {excerpt(application)}); if that is not an installer: SELECT pg_terminate_backend({pid})"
        )
    row = conn.execute(_QUERIES["blocking_sessions"], {"table": table}).fetchone() if table else None
    return f" on {table}, held by pid {row[0]} (user {row[1]}): {row[2]}" if row else ""


def _failure(step: InstallStep, exc: psycopg.Error, remedy: str = "") -> SchemaError:
    message = exc.diag.message_primary or summary(exc)
    hint = (f" ({exc.diag.message_hint})" if exc.diag.message_hint else "") + remedy
    return SchemaError(message + hint if message.startswith("rule ") else f"{step.title}: {message}{hint}")


def _file(name: str) -> str:
    return resource(f"sql/{name}").read_text(encoding="utf-8")


def _as_text(part: sql.Composable) -> str:
    return part.as_string(None)
