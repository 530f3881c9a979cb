"""Owners of the application's database that can no longer dump it, because they cannot read our schema."""

from dataclasses import dataclass
from typing import Any

import psycopg

from listener.db.queries import load

CANNOT_DUMP = load("admin")["cannot_dump"]
# pg_dump needs each of them. vacuumdb needs only the first.
_RIGHTS = (
    "GRANT USAGE ON SCHEMA pgherald TO pgherald_backup; "
    "GRANT SELECT ON ALL TABLES IN SCHEMA pgherald TO pgherald_backup; "
    "GRANT SELECT ON ALL SEQUENCES IN SCHEMA pgherald TO pgherald_backup"
)


@dataclass(frozen=True, slots=True)
class BlockedDump:
    """Roles for which pg_dump and vacuumdb fail, and the statements that help."""

    seen: str
    remedy: str


def blocked(conn: psycopg.Connection[Any]) -> BlockedDump | None:
    """Return which owners of the database or of a watched table cannot dump it, or None."""
    return described(conn.execute(CANNOT_DUMP, {"database_only": False}).fetchall())


def described(rows: list[tuple[str, bool, bool]]) -> BlockedDump | None:
    """Return the rows of the query `cannot_dump` in words, or None if there are none."""
    if not rows:
        return None
    roles = ", ".join(role for role, _, _ in rows)
    _, exists, reads = rows[0]
    statements = [
        *([] if exists else ["CREATE ROLE pgherald_backup"]),
        *([] if reads else [_RIGHTS]),
        f"GRANT pgherald_backup TO {roles}",
    ]
    return BlockedDump(
        f"pg_dump and vacuumdb fail as {roles}, which cannot read schema pgherald",
        f"{'; '.join(statements)}; see docs/dba.md, Backup",
    )
