"""The query `find` of a rule: it runs, returns a key, and looks at the address."""

import asyncio

from listener.admin.find import find_rows
from listener.doctor.context import Context
from listener.doctor.result import Finding, NotChecked, fault, ok, warn
from listener.errors import DatabaseUnavailable, RuleBroken

# RFC 2606 2: nobody has an address at this domain.
_NOBODY = "pgherald-doctor@nobody.invalid"
# A person waits for `explain --email`. Without an index, the query reads the table once.
_FIND_TIMEOUT_S = 20.0


async def find(context: Context, rule: str) -> Finding:
    """Run the rule's query `find` for an address that nobody has."""
    context.require_database()
    if context.standby or context.lookup_standby:
        raise NotChecked("lookups do not read a standby")
    remedy = f"correct [rules.{rule}] find"
    try:
        async with asyncio.timeout(_FIND_TIMEOUT_S):
            found = await find_rows(context.lookups, rule, context.settings.rules[rule], _NOBODY)
    except TimeoutError:
        return warn(f"did not finish within {_FIND_TIMEOUT_S:g} s", "create an index on what it compares")
    except RuleBroken as exc:
        return fault(str(exc), remedy)
    except DatabaseUnavailable as exc:
        return fault(str(exc), "start that server, or correct [database] lookup_url or url")
    if found.rows:
        return warn("finds rows for an address that nobody has", f"{remedy}: compare a column with %(email)s")
    return ok("runs; explain and forget take --email")
