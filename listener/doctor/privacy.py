"""Readers of addresses, messages and the secret besides the daemon: other roles, the server's log, the tables' owners."""

from psycopg.rows import dict_row

from listener.db.connection import connect_async
from listener.doctor.context import QUERIES, Context
from listener.doctor.result import CheckResult, fault, ok, warn

_SHOWN = 5
_LOGIN = "see docs/dba.md, A login for lookups"


async def row_security(context: Context) -> CheckResult:
    """With it, the daemon's sessions are refused: they say row_security = off, since hidden events would wait for ever."""
    context.need_schema()
    tables = (await context.row(QUERIES["row_security"]))["tables"]
    if not tables:
        return ok("off for our tables")
    mend = "; ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for table in tables)
    return fault(f"row level security is on for {', '.join(tables)}: the daemon is refused", mend)


async def readers(context: Context) -> CheckResult:
    """Default privileges, for one, let a role read all tables, ours too."""
    context.need_schema()
    rows = await context.rows(QUERIES["readers"])
    if not rows:
        return ok("only the owner and the daemon can read the secret and messages on their way")
    shown = ", ".join(f"{row['role']} can read {row['tables']}" for row in rows[:_SHOWN])
    more = f", and {len(rows) - _SHOWN} more roles" if len(rows) > _SHOWN else ""
    first = rows[0]
    mend = (
        f"REVOKE pg_read_all_data FROM {first['role']}"
        if first["all_data"]
        else f"REVOKE ALL ON ALL TABLES IN SCHEMA pgherald FROM {first['role']};"
        f" REVOKE ALL ON SCHEMA pgherald FROM {first['role']}; then see ALTER DEFAULT PRIVILEGES"
    )
    return warn(shown + more, mend)


async def server_log(context: Context) -> CheckResult:
    """The settings as this role's sessions have them."""
    row = await context.row(QUERIES["server_log"])
    role = row["role"]
    if row["statements"]:
        return warn(
            f"{', '.join(row['statements'])}: the server's log may show addresses and messages, as parameters",
            f"ALTER ROLE {role} SET log_parameter_max_length = 0, as a superuser; then restart the daemon",
        )
    if row["auto_explain"]:
        return warn(
            "auto_explain is on: the server's log may show addresses and messages, as parameters",
            f"ALTER ROLE {role} SET auto_explain.log_parameter_max_length = 0, as a superuser; then restart the daemon",
        )
    if row["pgaudit"]:
        return warn(
            "pgaudit.log_parameter is on: the server's log may show addresses and messages",
            f"ALTER ROLE {role} SET pgaudit.log_parameter = off, as a superuser; then restart the daemon",
        )
    if row["on_error"]:
        return warn(
            "log_parameter_max_length_on_error is not 0: with an error, the server's log shows addresses and messages",
            f"ALTER ROLE {role} SET log_parameter_max_length_on_error = 0; then restart the daemon",
        )
    return ok("shows no parameters")


async def lookup_login(context: Context) -> CheckResult:
    """The functions behind the tables that a lookup reads run with the rights of the role that reads them."""
    conn = context.conn
    database = context.settings.database
    if conn is None or not database.lookup_url:
        row = await context.row(QUERIES["lookup_login"], {"other": ""})
        if row["super"]:
            return warn(
                f"{row['role']} is a superuser: the functions behind the tables that lookups read run with its rights",
                f"run the daemon as a role that is none, and set [database] lookup_url; {_LOGIN}",
            )
        return ok(f"lookups run as {row['role']}, as all else; [database] lookup_url separates them")
    async with await connect_async(database.lookup_url) as lookups, lookups.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(QUERIES["lookup_login"], {"other": conn.info.user})
        [row] = await cursor.fetchall()
    role = row["role"]
    if row["super"]:
        return fault(
            f"[database] lookup_url logs in as {role}, a superuser", f"let it log in as a role of its own; {_LOGIN}"
        )
    if row["same"] or row["member"]:
        return fault(
            f"[database] lookup_url logs in as {role}, which has the daemon's rights",
            f"let it log in as a role of its own; {_LOGIN}",
        )
    if row["reaches"]:
        return fault(
            f"{role}, the login for lookups, has rights on the tables in schema pgherald",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA pgherald FROM {role}; REVOKE ALL ON SCHEMA pgherald FROM {role}",
        )
    return ok(f"lookups run as {role}, which has no right on the schema pgherald")
