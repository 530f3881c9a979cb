"""Readers of addresses, messages and the secret besides the daemon: other roles, the server's log, table owners."""

from psycopg.rows import dict_row

from listener.db.connection import connect_anywhere
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import Finding, fault, ok, warn

# A line names this many roles and counts the others.
_MAX_SHOWN = 5
_LOGIN = "see docs/dba.md, A login for lookups"


async def row_security(context: Context) -> Finding:
    """Check that row-level security is off for pgherald's tables.

    The daemon's sessions set row_security = off, so the server raises an error there. Otherwise hidden events would wait
    forever without a word.
    """
    context.require_schema()
    tables = (await context.row(QUERIES["row_security"]))["tables"]
    if not tables:
        return ok("off for pgherald's tables")
    mend = "; ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for table in tables)
    return fault(f"row-level security is on for {', '.join(tables)}, so the daemon's queries fail", mend)


async def readers(context: Context) -> Finding:
    """Look for other roles that can read the secret or messages, for example by ALTER DEFAULT PRIVILEGES."""
    context.require_schema()
    rows = await context.rows(QUERIES["readers"])
    if not rows:
        return ok("only the owner, the daemon and pgherald_backup can read the secret and the messages in transit")
    shown = ", ".join(f"{row['role']} can read {row['tables']}" for row in rows[:_MAX_SHOWN])
    more = f", and {len(rows) - _MAX_SHOWN} more roles" if len(rows) > _MAX_SHOWN else ""
    first = rows[0]
    mend = (
        f"REVOKE pg_read_all_data FROM {first['role']}"
        if first["all_data"]
        else f"REVOKE ALL ON ALL TABLES IN SCHEMA pgherald FROM {first['role']};"
        f" REVOKE ALL ON SCHEMA pgherald FROM {first['role']}; then revoke the default privileges that \\ddp shows in psql"
    )
    return warn(shown + more, mend)


async def server_log(context: Context) -> Finding:
    """Look for settings that make the server log statements with their parameters. They may be set for this role alone."""
    row = await context.row(QUERIES["server_log"])
    role = row["role"]
    if row["statements"]:
        return warn(
            f"{', '.join(row['statements'])}: PostgreSQL's log may contain addresses and messages, as parameters",
            f"ALTER ROLE {role} SET log_parameter_max_length = 0, as a superuser; then restart the daemon",
        )
    if row["auto_explain"]:
        return warn(
            "auto_explain is on: PostgreSQL's log may contain addresses and messages, as parameters",
            f"ALTER ROLE {role} SET auto_explain.log_parameter_max_length = 0, as a superuser; then restart the daemon",
        )
    if row["pgaudit"]:
        return warn(
            "pgaudit.log_parameter is on: PostgreSQL's log may contain addresses and messages",
            f"ALTER ROLE {role} SET pgaudit.log_parameter = off, as a superuser; then restart the daemon",
        )
    if row["on_error"]:
        return warn(
            "log_parameter_max_length_on_error is not 0: after an error, PostgreSQL's log contains addresses and messages",
            f"ALTER ROLE {role} SET log_parameter_max_length_on_error = 0; then restart the daemon",
        )
    return ok("contains no parameters of statements")


async def lookup_login(context: Context) -> Finding:
    """Check the rights with which lookups run.

    A table's owner can put functions behind it: in a view, a policy or an index. They run with the rights of the role that
    reads the table.
    """
    context.require_database()
    database = context.settings.database
    if not database.lookup_url:
        row = await context.row(QUERIES["lookup_login"], {"other": ""})
        if row["super"]:
            return warn(
                f"{row['role']} is a superuser, and functions behind the tables that lookups read run with its rights",
                f"run the daemon as a role that is not a superuser, and set [database] lookup_url; {_LOGIN}",
            )
        return ok(f"lookups run as {row['role']}, like everything else; [database] lookup_url would separate them")
    async with await connect_anywhere(database.lookup_url) as lookups, lookups.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(QUERIES["lookup_login"], {"other": context.user})
        [row] = await cursor.fetchall()
    role = row["role"]
    if row["super"]:
        return fault(
            f"[database] lookup_url logs in as {role}, a superuser", f"give lookups a role of their own; {_LOGIN}"
        )
    if row["same"] or row["member"]:
        return fault(
            f"[database] lookup_url logs in as {role}, which has the daemon's rights",
            f"give lookups a role of their own; {_LOGIN}",
        )
    if row["reaches"]:
        return fault(
            f"{role}, the role of [database] lookup_url, has privileges on the tables of schema pgherald",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA pgherald FROM {role}; REVOKE ALL ON SCHEMA pgherald FROM {role}",
        )
    return ok(f"lookups run as {role}, which has no privilege on schema pgherald")
