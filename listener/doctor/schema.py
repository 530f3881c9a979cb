"""What install put into the database: all there, of our version, as shipped, and open to this role."""

import re

from listener.db.schema_version import VERSION, SchemaVersion
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import CheckResult, fault, ok, warn
from listener.resources import resource

_INSTALL = "run `pgherald install`"


async def schema(context: Context) -> CheckResult:
    found = await context.row(QUERIES["objects"])
    context.installed = found["installed"]
    if not context.installed:
        return fault("this database has no pgherald in it", _INSTALL)
    if found["version_functions"]:
        row = await context.row("SELECT pgherald.version() AS number, pgherald.usable_from() AS usable_from")
        context.version = version = SchemaVersion(**row)
        if version.problem is not None:
            return fault(*version.problem)
        if version.is_newer:
            # The list of objects is that of this pgherald's own version.
            return ok(str(version))
    if missing := found["missing"]:
        return fault(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or invalid", _INSTALL)
    return ok(f"version {VERSION}")


async def functions(context: Context) -> CheckResult:
    """Bodies only; `capture` looks at those that watch() makes."""
    context.need_schema()
    if context.version is not None and context.version.is_newer:
        return ok("not compared: the schema is newer than the functions that this pgherald ships")
    shipped = _shipped()
    rows = await context.rows(QUERIES["functions"], {"names": list(shipped)})
    installed = {row["name"]: row["body"] for row in rows}
    if missing := sorted(shipped.keys() - installed.keys()):
        return fault(f"missing: {', '.join(missing)}", _INSTALL)
    if changed := sorted(name for name, body in shipped.items() if installed[name] != body):
        return warn(f"not as shipped: {', '.join(changed)}", f"{_INSTALL}; it puts ours back")
    return ok(f"{len(shipped)}, as shipped")


def _shipped() -> dict[str, str]:
    text = resource("sql/triggers.sql").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^CREATE OR REPLACE (?:FUNCTION|PROCEDURE) pgherald\.", text)[1:]
    found = ((part, re.search(r"\bAS (\$\w*\$)(.*?)\1", part.partition("\n\n\n")[0], re.DOTALL)) for part in parts)
    return {part.partition("(")[0]: body[2] for part, body in found if body}


async def grants(context: Context) -> CheckResult:
    """What the daemon needs, for the role that this connects as."""
    context.need_schema()
    row = await context.row(QUERIES["grants"])
    if missing := row["missing"]:
        return fault(
            f"{row['role']} lacks {', '.join(missing)}",
            f"connect as the daemon's role; or run `pgherald install --grant-to {row['role']}`",
        )
    return ok(f"{row['role']} has all that the daemon needs")
