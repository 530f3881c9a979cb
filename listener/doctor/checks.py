"""The list of checks, and the runner that turns every outcome into a result."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from functools import partial

import psycopg

from listener.config.sections import Bounces
from listener.config.settings import Settings
from listener.db.errors import summary
from listener.db.statement import statements_of
from listener.doctor import (
    find,
    lookup,
    notifications,
    privacy,
    schema,
    server,
    smtp,
    statements,
    templates,
    triggers,
    value,
    webhooks,
)
from listener.doctor.context import NO_DATABASE, Context
from listener.doctor.result import CheckResult, Finding, NotChecked, fault, warn
from listener.errors import PgheraldError

Check = Callable[[Context], Awaitable[Finding]]
# A check and its name.
Named = tuple[str, Check]

# The rules that are checked at the same time. More would only wait for the same connections and the same processor.
_MAX_RULES_AT_ONCE = 4


async def examine(settings: Settings) -> AsyncIterator[CheckResult]:
    """Run every check, several at the same time, and yield the results in the order of the list.

    A fault of an early check often explains those of later ones.
    """
    context = Context(settings)
    tasks: list[asyncio.Task[None]] = []
    try:
        for name, check in _first():
            yield await _run(name, check, context)
        listed = _listed(settings)
        results = {name: asyncio.get_running_loop().create_future() for name, _ in listed}
        limit = asyncio.Semaphore(_MAX_RULES_AT_ONCE)

        async def run(chain: list[Named]) -> None:
            async with limit if len(chain) > 1 else nullcontext():
                for name, check in chain:
                    results[name].set_result(await _run(name, check, context))

        tasks += [asyncio.create_task(run(chain)) for chain in _chains(settings, listed)]
        for name, _ in listed:
            yield await results[name]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await context.close()


def _first() -> list[Named]:
    """Return the checks whose results the others need."""
    return [
        ("database", server.database),
        ("server", server.release),
        ("standby", server.standby),
        ("clock", server.clock),
        ("schema", schema.schema),
    ]


def _listed(settings: Settings) -> list[Named]:
    rules = settings.rules
    of_rule = [each for rule in rules for each in _of_rule(settings, rule)]
    kinds = dict.fromkeys(name.partition(" ")[0] for name, _ in of_rule)
    by_kind = {kind: [each for each in of_rule if each[0].partition(" ")[0] == kind] for kind in kinds}
    return [
        ("functions", schema.functions),
        ("grants", schema.grants),
        ("sequences", schema.sequences),
        ("subscriptions", schema.subscriptions),
        ("backup", schema.backup),
        ("row security", privacy.row_security),
        ("readers", privacy.readers),
        ("server log", privacy.server_log),
        ("login", privacy.lookup_login),
        *by_kind.pop("triggers", []),
        *by_kind.pop("capture", []),
        ("replication", triggers.replication_role),
        *(each for kind in by_kind.values() for each in kind),
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


def _of_rule(settings: Settings, rule: str) -> list[Named]:
    """Return the checks of one rule. Each may need the results of those before it."""
    return [
        (f"triggers {rule}", partial(triggers.definitions, rule=rule)),
        (f"capture {rule}", partial(triggers.capture, rule=rule)),
        (f"value {rule}", partial(value.value, rule=rule)),
        (f"lookup {rule}", partial(lookup.lookup, rule=rule)),
        (f"template {rule}", partial(templates.template, rule=rule)),
        (f"mail {rule}", partial(templates.mail, rule=rule)),
        *(
            (f"{statement.name} {rule}", partial(statements.statement, statement=statement))
            for statement in statements_of(rule, settings.rules[rule])
        ),
        *([(f"find {rule}", partial(find.find, rule=rule))] if settings.rules[rule].find else []),
    ]


def _chains(settings: Settings, listed: list[Named]) -> list[list[Named]]:
    """Return the checks in lists that run at the same time: those of one rule together, and each other by itself."""
    chains = [_of_rule(settings, rule) for rule in settings.rules]
    names = {name for chain in chains for name, _ in chain}
    # The network's time-outs run while the rules are checked.
    return [*([each] for each in listed if each[0] not in names), *chains]


async def _run(name: str, check: Check, context: Context) -> CheckResult:
    try:
        finding = await check(context)
    except NotChecked as exc:
        # One cause has one text, so that the lines of all these checks are one.
        why = NO_DATABASE if context.user is None else exc
        finding = warn(f"not checked: {why}", exc.remedy or "fix the fault above, then run doctor again")
    except psycopg.errors.InsufficientPrivilege as exc:
        finding = warn(
            f"not checked: {summary(exc)}", "see the check grants, or run doctor as the owner of schema pgherald"
        )
    except (psycopg.OperationalError, OSError) as exc:
        finding = warn(f"not checked: {summary(exc)}", "run doctor again when the database is less busy")
    except PgheraldError as exc:
        finding = fault(str(exc), "see PostgreSQL's log, then run doctor again")
    except Exception as exc:
        # A bug in one check must not lose the results of the others.
        finding = warn(
            f"not checked: {type(exc).__name__}: {summary(exc)}", "this is a bug in `doctor`; please report it"
        )
    return CheckResult(name, finding.state, finding.seen, finding.remedy)
