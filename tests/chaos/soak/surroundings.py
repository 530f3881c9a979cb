"""Changes of rights, owners and settings, and the work of administrators on the database."""

import asyncio
import time

from tests.chaos.soak.stage import TWIN, WATCHED, SoakStage

_SETTINGS = {
    "default_transaction_isolation": "serializable",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
    "search_path": "nowhere",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "row_security": "off",
    "plan_cache_mode": "force_generic_plan",
    "check_function_bodies": "off",
}
_HOLD_S = (0.5, 3.0)


async def revoke_from_daemon(stage: SoakStage) -> None:
    """Take the lookup's right away until a daemon has told that the rule is suspended: its emails come late."""
    table = stage.table()
    since = time.time()
    if await stage.alter("app_owner", f"REVOKE SELECT ON {table.looked_up} FROM herald"):
        if await stage.logs.wait_for("rule_suspended", table.name, since) is None:
            stage.refuse(f"no daemon logged rule_suspended for {table.name}")
        await stage.alter("app_owner", f"GRANT SELECT ON {table.looked_up} TO herald")


async def row_security(stage: SoakStage) -> None:
    """Switch row security on, with policies for the application and the daemon, and off again."""
    name = stage.table().full_name
    await stage.alter(
        "app_owner",
        f"CREATE POLICY writers ON {name} TO application USING (true) WITH CHECK (true)",
        f"CREATE POLICY readers ON {name} FOR SELECT TO herald, app_owner USING (true)",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        *([f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"] if stage.chance.random() < 0.5 else []),
    )
    await _hold(stage)
    await stage.alter(
        "app_owner",
        f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
        f"DROP POLICY writers ON {name}",
        f"DROP POLICY readers ON {name}",
    )


async def row_security_without_policy(stage: SoakStage) -> None:
    """Switch row security on and forget the daemon: it sees no rows, and must not take them for removed ones."""
    table = stage.table("ticket", "invoice", "parcel", "visit")
    name = table.full_name
    await stage.alter(
        "app_owner",
        f"CREATE POLICY writers ON {name} TO application USING (true) WITH CHECK (true)",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
    )
    await _hold(stage)
    await stage.alter("app_owner", f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY", f"DROP POLICY writers ON {name}")


async def change_owner_of_table(stage: SoakStage) -> None:
    name = stage.table().full_name
    if await stage.alter("administrator", f"ALTER TABLE {name} OWNER TO other_owner"):
        await _hold(stage)
        while not await stage.alter("administrator", f"ALTER TABLE {name} OWNER TO app_owner"):
            stage.say(f"{name} still belongs to other_owner")


async def change_owner_of_schema(stage: SoakStage) -> None:
    """Give the schema pgherald to another role as docs/migrations.md says, and back."""
    await stage.execute(
        "ALTER SCHEMA pgherald OWNER TO administrator; GRANT USAGE ON SCHEMA pgherald TO pgherald_owner"
    )
    await _hold(stage)
    await stage.execute("ALTER SCHEMA pgherald OWNER TO pgherald_owner")


async def set_for_role(stage: SoakStage) -> None:
    """Change a setting of the application's role. Sessions that connect meanwhile have it."""
    name, value = stage.chance.choice(list(_SETTINGS.items()))
    await stage.execute(f"ALTER ROLE application SET {name} = '{value}'", role="administrator")
    await _hold(stage)
    await stage.execute(f"ALTER ROLE application RESET {name}", role="administrator")


async def set_for_database(stage: SoakStage) -> None:
    """Change a setting of the database, and make the daemons connect again."""
    name, value = stage.chance.choice(list(_SETTINGS.items()))
    for database in (WATCHED, TWIN):
        await stage.execute(f"ALTER DATABASE {database} SET {name} = '{value}'", role="administrator")
    await terminate_daemons_sessions(stage)
    await _hold(stage)
    for database in (WATCHED, TWIN):
        await stage.execute(f"ALTER DATABASE {database} RESET {name}", role="administrator")
    await terminate_daemons_sessions(stage)


async def terminate_daemons_sessions(stage: SoakStage) -> None:
    await stage.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'herald'")


async def dump(stage: SoakStage) -> None:
    """Dump the database as a backup does, while it is written."""
    process = await asyncio.create_subprocess_exec(
        str(stage.cluster.binaries / "pg_dump"), "--dbname", stage.dsn("backup"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode:
        stage.refuse(f"pg_dump: {said.decode(errors='replace')}")


async def maintain_outbox(stage: SoakStage) -> None:
    """Rewrite or reindex the outbox, which locks it, or analyze everything."""
    await stage.execute(
        stage.chance.choice(["VACUUM FULL pgherald.outbox", "REINDEX TABLE pgherald.outbox", "VACUUM ANALYZE"])
    )


async def _hold(stage: SoakStage) -> None:
    await asyncio.sleep(stage.chance.uniform(*_HOLD_S))
