"""The installed schema: complete, of the right version, unchanged, and accessible to this role and to a backup."""

import re

from listener.db.backup import CANNOT_DUMP, described
from listener.db.schema_version import VERSION, SchemaVersion
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, NotChecked, fault, ok, warn
from listener.resources import resource

_INSTALL = "run `pgherald install`"


async def schema(context: Context) -> Finding:
    """Check the schema's version, tables and indexes."""
    found = await context.row(QUERIES["objects"])
    context.installed = found["installed"]
    if not context.installed:
        return fault("pgherald is not installed in this database", _INSTALL)
    if found["version_functions"]:
        row = await context.row("SELECT pgherald.version() AS number, pgherald.usable_from() AS usable_from")
        context.version = version = SchemaVersion(**row)
        if version.problem is not None:
            return fault(*version.problem)
        if version.is_newer:
            # The list of objects is that of this release's own version.
            return ok(str(version))
    if missing := found["missing"]:
        return fault(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or invalid", _INSTALL)
    return ok(f"version {VERSION}, complete")


async def functions(context: Context) -> Finding:
    """Compare the bodies of the installed functions with the shipped file.

    The capture functions are generated for each rule; `triggers.capture` compares those.
    """
    context.require_schema()
    if context.version is not None and context.version.is_newer:
        return ok("not compared: the schema is newer than the functions that this release ships")
    shipped = _shipped()
    rows = await context.rows(QUERIES["functions"], {"names": list(shipped)})
    installed = {row["name"]: row["body"] for row in rows}
    if missing := sorted(shipped.keys() - installed.keys()):
        return fault(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", _INSTALL)
    if changed := sorted(name for name, body in shipped.items() if installed[name] != body):
        return warn(
            f"{', '.join(changed)} {'differs' if len(changed) == 1 else 'differ'} from the shipped file",
            f"{_INSTALL}, which restores the shipped bodies",
        )
    return ok(f"all {len(shipped)} are as shipped")


def _shipped() -> dict[str, str]:
    text = resource("sql/triggers.sql").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^CREATE OR REPLACE (?:FUNCTION|PROCEDURE) pgherald\.", text)[1:]
    found = ((part, re.search(r"\bAS (\$\w*\$)(.*?)\1", part.partition("\n\n\n")[0], re.DOTALL)) for part in parts)
    return {part.partition("(")[0]: body[2] for part, body in found if body}


async def grants(context: Context) -> Finding:
    """Check that the role of `[database] url` has the daemon's privileges."""
    context.require_schema()
    row = await context.row(QUERIES["grants"])
    tables = [rule.table for rule in context.settings.rules.values()]
    schemas = (await context.row(QUERIES["unusable_schemas"], {"tables": tables}))["names"]
    if row["stranger"]:
        return fault(
            f"role {row['role']} has none of the daemon's privileges",
            f"run doctor as the daemon's role, or make this one the daemon's: {row['remedy']}",
        )
    missing = row["missing"] + [f"USAGE on schema {schema}" for schema in schemas]
    if missing:
        remedies = [f"run doctor as the daemon's role, or run `pgherald install --grant-to {row['role']}`"] * bool(
            row["missing"]
        ) + [f"GRANT USAGE ON SCHEMA {', '.join(schemas)} TO {row['role']}"] * bool(schemas)
        return fault(f"role {row['role']} lacks {', '.join(missing)}", "; ".join(remedies))
    return ok(f"role {row['role']} has all privileges that the daemon needs")


async def sequences(context: Context) -> Finding:
    """Check that no sequence will give an id that a row has already, as after a switchover by logical replication."""
    context.require_schema()
    row = await context.row(QUERIES["sequences"])
    if behind := row["behind"]:
        return fault(
            f"{', '.join(behind)} {'is' if len(behind) == 1 else 'are'} behind the greatest id:"
            " the daemon cannot make events of captured changes, or cannot start",
            f"{_INSTALL}, which moves the sequence forward; see docs/migrations.md",
        )
    if unread := row["unread"]:
        raise NotChecked(f"this role cannot read {', '.join(unread)}", "see the check grants")
    return ok("ahead of every id")


async def subscriptions(context: Context) -> Finding:
    """Check that no subscription copies another database's events into this one, where a second daemon would send them."""
    context.require_schema()
    names = (await context.row(QUERIES["subscriptions"]))["names"]
    if not names:
        return ok("none copies events into this database")
    drop = "; ".join(f"DROP SUBSCRIPTION {name}" for name in names)
    return fault(
        f"{', '.join(names)} copies another database's events into this one: a daemon here sends them a second time",
        f"run no daemon here before the switchover; then {drop}; see docs/migrations.md",
    )


async def backup(context: Context) -> Finding:
    """Check that the database's owner can still dump it, or that backups have a role of their own."""
    context.require_schema()
    rows = await context.rows(CANNOT_DUMP, {"database_only": True})
    if blocked := described([(row["role"], row["backup_exists"], row["backup_reads"]) for row in rows]):
        return warn(blocked.seen, blocked.remedy)
    return ok("the database's owner or a member of pgherald_backup can dump the database")
