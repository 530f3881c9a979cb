"""The GRANT statements that a role lacks to run a rule's lookup or statement."""

import re

from listener.config.rules import SQL_NAME, Rule
from listener.doctor.context import QUERIES, Context
from listener.worker.row_security import tables_read

_TABLE = rf"{SQL_NAME}(?:\.{SQL_NAME})?"
_CHANGED = re.compile(rf"\b(UPDATE|INSERT\s+INTO|DELETE\s+FROM)\s+(?:ONLY\s+)?({_TABLE})", re.IGNORECASE)
_SET = re.compile(r"\bSET\b(.*?)(?:\bFROM\b|\bWHERE\b|\bRETURNING\b|$)", re.IGNORECASE | re.DOTALL)
_COLUMN = re.compile(rf"(?:^|,)\s*({SQL_NAME})\s*=(?!=)")


async def read_remedy(context: Context, rule: Rule) -> str:
    """Return the statements that let the role of the lookups read the tables that the lookup names."""
    return await _grants(context, {rule.table} | tables_read(rule.lookup), {})


async def change_remedy(context: Context, statement: str) -> str:
    """Return the statements that let the role of the lookups run a statement that changes the application's tables."""
    changes = {}
    for kind, table in _CHANGED.findall(statement):
        privilege = kind.split()[0].upper()
        assigned = _SET.search(statement) if privilege == "UPDATE" else None
        columns = _COLUMN.findall(assigned[1]) if assigned else []
        changes[table] = f"{privilege} ({', '.join(columns)})" if columns else privilege
    return await _grants(context, set(changes) | tables_read(statement), changes)


async def _grants(context: Context, names: set[str], changes: dict[str, str]) -> str:
    """Return GRANTs on the schemas, SELECT on all these tables, and the privileges of `changes` by table."""
    async with context.lookup_session() as conn:
        [role] = await (await conn.execute("SELECT quote_ident(current_user)", prepare=False)).fetchone() or [""]
    # A name with FROM before it may also be that of a CTE, which no table has.
    tables = await context.rows(QUERIES["named_tables"], {"names": sorted(names)})
    if not tables:
        return "grant the role of the lookups USAGE on the schemas and SELECT on the tables of the lookup"
    read = ", ".join(dict.fromkeys(row["table"] for row in tables if row["name"] not in changes))
    schemas = ", ".join(dict.fromkeys(row["schema"] for row in tables))
    statements = [f"GRANT USAGE ON SCHEMA {schemas} TO {role}"]
    if read:
        statements.append(f"GRANT SELECT ON {read} TO {role}")
    statements += [
        f"GRANT SELECT, {changes[row['name']]} ON {row['table']} TO {role}" for row in tables if row["name"] in changes
    ]
    return "; ".join(statements)
