"""Check of the rules' statements that change the application's tables, without running them."""

from listener.db.statement import Statement
from listener.doctor.context import Context
from listener.doctor.result import Finding, fault, ok
from listener.errors import RuleBroken


async def statement(context: Context, statement: Statement) -> Finding:
    """Check that the statement is valid and that the role of the lookups may run it."""
    try:
        async with context.lookup_transaction() as conn:
            await statement.check(conn)
    except RuleBroken as exc:
        if "permission denied" in str(exc):
            return fault(str(exc), "GRANT the role of the lookups the privileges of this statement, and no others")
        return fault(str(exc), f"correct [rules.{statement.rule}] {statement.name}")
    return ok("the statement is valid, and the role of the lookups may run it")
