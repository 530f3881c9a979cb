"""Everything that keeps a mail from going out, looked for: one finding a check, and no check hides another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import psycopg

from listener.config.settings import Settings
from listener.db.errors import summary
from listener.doctor import notifications, privacy, schema, server, smtp, templates, triggers
from listener.doctor.context import Context
from listener.doctor.result import CheckResult, NotChecked, ReportedCheck, fault, warn
from listener.errors import PgheraldError
from listener.mail.unsubscribe import is_statement

Check = Callable[[Context], Awaitable[CheckResult]]


async def examine(settings: Settings) -> AsyncIterator[ReportedCheck]:
    """Run every check, in the order in which a fault explains those after it."""
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
        ("row security", privacy.row_security),
        ("readers", privacy.readers),
        ("server log", privacy.server_log),
        ("lookup login", privacy.lookup_login),
        *((f"triggers {rule}", partial(triggers.definitions, rule=rule)) for rule in rules),
        *((f"capture {rule}", partial(triggers.capture, rule=rule)) for rule in rules),
        ("replication", triggers.replication_role),
        *((f"lookup {rule}", partial(smtp.lookup, rule=rule)) for rule in rules),
        *((f"template {rule}", partial(templates.template, rule=rule)) for rule in rules),
        *((f"mail {rule}", partial(templates.mail, rule=rule)) for rule in rules),
        *(
            (f"unsubscribe {name}", partial(templates.unsubscribe, rule=name))
            for name, rule in rules.items()
            if is_statement(rule)
        ),
        ("listen", notifications.listen),
        ("queue", notifications.queue),
        ("transactions", server.transactions),
        ("locks", notifications.locks),
        ("gate", notifications.gate),
        ("daemon", notifications.daemon),
        ("sender", smtp.sender),
        ("smtp", smtp.smtp),
    ]


async def _run(name: str, check: Check, context: Context) -> ReportedCheck:
    try:
        seen = await check(context)
    except NotChecked as exc:
        seen = warn(f"not checked: {exc}", exc.remedy or "mend what is said above, then run doctor again")
    except psycopg.errors.InsufficientPrivilege as exc:
        seen = warn(f"not checked: {summary(exc)}", "see the check grants; or run doctor as the schema's owner")
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as exc:
        seen = warn(f"not checked: {summary(exc)}", "run doctor again when the database is less busy")
    except PgheraldError as exc:
        seen = fault(str(exc), "see the server's log, then run doctor again")
    except Exception as exc:
        # Whatever it is, the other checks are not to be lost for it.
        seen = warn(f"not checked: {type(exc).__name__}: {summary(exc)}", "a fault of doctor's own: report it")
    return ReportedCheck(name, seen.state, seen.seen, seen.remedy)
