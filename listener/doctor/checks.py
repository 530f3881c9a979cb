"""The list of checks, and the runner that turns every outcome into a result."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import psycopg

from listener.config.sections import Bounces
from listener.config.settings import Settings
from listener.db.errors import summary
from listener.db.statement import statements_of
from listener.doctor import (
    lookup,
    notifications,
    privacy,
    schema,
    server,
    smtp,
    statements,
    templates,
    triggers,
    webhooks,
)
from listener.doctor.context import Context
from listener.doctor.result import CheckResult, Finding, NotChecked, fault, warn
from listener.errors import PgheraldError

Check = Callable[[Context], Awaitable[Finding]]


async def examine(settings: Settings) -> AsyncIterator[CheckResult]:
    """Run every check. A fault of an early check often explains those of later ones."""
    context = Context(settings)
    try:
        for name, check in _checks(settings):
            yield await _run(name, check, context)
    finally:
        if context.conn is not None:
            await context.conn.close()


def _checks(settings: Settings) -> list[tuple[str, Check]]:
    rules = settings.rules
    return [
        ("database", server.database),
        ("server", server.release),
        ("standby", server.standby),
        ("clock", server.clock),
        ("schema", schema.schema),
        ("functions", schema.functions),
        ("grants", schema.grants),
        ("sequences", schema.sequences),
        ("subscriptions", schema.subscriptions),
        ("backup", schema.backup),
        ("row security", privacy.row_security),
        ("readers", privacy.readers),
        ("server log", privacy.server_log),
        ("lookup login", privacy.lookup_login),
        *((f"triggers {rule}", partial(triggers.definitions, rule=rule)) for rule in rules),
        *((f"capture {rule}", partial(triggers.capture, rule=rule)) for rule in rules),
        ("replication", triggers.replication_role),
        *((f"lookup {rule}", partial(lookup.lookup, rule=rule)) for rule in rules),
        *((f"template {rule}", partial(templates.template, rule=rule)) for rule in rules),
        *((f"mail {rule}", partial(templates.mail, rule=rule)) for rule in rules),
        *(
            (f"{statement.name} {name}", partial(statements.statement, statement=statement))
            for name, rule in rules.items()
            for statement in statements_of(name, rule)
        ),
        ("listen", notifications.listen),
        ("queue", notifications.queue),
        ("transactions", server.transactions),
        ("locks", notifications.locks),
        ("gate", notifications.gate),
        ("daemon", notifications.daemon),
        ("sender", smtp.sender),
        ("smtp", smtp.smtp),
        *([("smtp fallback", smtp.fallback)] if settings.smtp.fallback is not None else []),
        *([("bounces", webhooks.bounces)] if settings.bounces != Bounces() else []),
    ]


async def _run(name: str, check: Check, context: Context) -> CheckResult:
    try:
        finding = await check(context)
    except NotChecked as exc:
        finding = warn(f"not checked: {exc}", exc.remedy or "fix the fault above, then run doctor again")
    except psycopg.errors.InsufficientPrivilege as exc:
        finding = warn(
            f"not checked: {summary(exc)}", "see the check grants, or run doctor as the owner of schema pgherald"
        )
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as exc:
        finding = warn(f"not checked: {summary(exc)}", "run doctor again when the database is less busy")
    except PgheraldError as exc:
        finding = fault(str(exc), "see PostgreSQL's log, then run doctor again")
    except Exception as exc:
        # A bug in one check must not lose the results of the others.
        finding = warn(
            f"not checked: {type(exc).__name__}: {summary(exc)}", "this is a bug in `doctor`; please report it"
        )
    return CheckResult(name, finding.state, finding.seen, finding.remedy)
