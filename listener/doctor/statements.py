"""Check of the rules' statements that change the application's tables, without running them."""

import psycopg

from listener.db.statement import Statement
from listener.doctor.context import Context
from listener.doctor.result import Finding, NotChecked, fault, ok
from listener.doctor.rights import change_remedy
from listener.errors import RuleBroken


async def statement(context: Context, statement: Statement) -> Finding:
    """Check that the statement is valid and that the role of the lookups may run it."""
    if context.standby or context.lookup_standby:
        raise NotChecked("a standby takes no writes")
    try:
        async with context.lookup_transaction() as conn:
            await statement.check(conn)
    except RuleBroken as exc:
        if isinstance(exc.__cause__, psycopg.errors.InsufficientPrivilege):
            return fault(str(exc), await change_remedy(context, statement.text))
        return fault(str(exc), f"correct [rules.{statement.rule}] {statement.name}")
    return ok("the statement is valid, and the role of the lookups may run it")
