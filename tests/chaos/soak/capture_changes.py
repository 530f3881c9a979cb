"""Changes that stop capture or change the watched column, and the operator's answer to each."""

import signal

from tests.chaos.soak.stage import SoakStage

_OTHER_LABEL = {"XX": "YY", "YY": "XX", "VE": "OK", "OK": "VE"}
# A type of the column `status`, and the next one.
_OTHER_TYPE = {
    "text COLLATE public.nocase": "varchar(20) COLLATE public.nocase",
    "varchar(20) COLLATE public.nocase": "text COLLATE public.nocase",
    "public.citext": "varchar(30)",
    "varchar(30)": "public.citext",
    "public.visit_status": "text",
    "text": "varchar(10)",
    "varchar(10)": "public.visit_status",
}


async def disable_triggers(stage: SoakStage) -> None:
    """Disable a table's triggers, as before a bulk load. Enable them and backfill when a daemon has told it."""
    table = stage.table()
    await _stop(stage, table.name, f"ALTER TABLE {table.full_name} DISABLE TRIGGER USER", "triggers disabled")


async def disable_triggers_of_partition(stage: SoakStage) -> None:
    partition = f"public.ticket_{stage.chance.choice(stage.application.tables['ticket'].regions)}"
    await _stop(stage, "ticket", f"ALTER TABLE {partition} DISABLE TRIGGER USER", "a partition's triggers disabled")


async def drop_trigger(stage: SoakStage) -> None:
    """Drop a trigger of ours, which the table's owner may do. The operator watches the table again."""
    table = stage.table()
    which = stage.chance.choice(["update", "insert"])
    async with stage.gaps.gap(table.name, "trigger dropped") as stop:
        # DROP TRIGGER locks the partitions before the table, and deadlocks with writers, whoever made the trigger.
        lock = f"LOCK TABLE {table.full_name} IN ACCESS EXCLUSIVE MODE"
        # The twin has no such trigger.
        drop = f"DROP TRIGGER IF EXISTS pgherald_{table.name}_{which} ON {table.full_name}"
        if not await stage.alter("app_owner", lock, drop):
            stage.gaps.withdraw(stop)
            return
        await stage.gaps.told(stop)
        await stage.rewatch(table.name)
        await stage.gaps.resumed(stop)
        await stage.pgherald("backfill", table.name)


async def change_type_of_watched_column(stage: SoakStage) -> None:
    """Change it with `rewatch --alter`: while the column's type changes, the rule's triggers are in the way."""
    table = stage.table("parcel", "visit")
    wanted = _OTHER_TYPE[table.type]
    change = f"ALTER TABLE {table.full_name} ALTER COLUMN status TYPE {wanted}"
    if await stage.rewatch(table.name, change):
        # A domain's rows are checked again, and so on: the twin gets the same change, a moment later.
        await stage.twin_only(change)
        table.type = wanted


async def add_enum_label(stage: SoakStage) -> None:
    stage.labels_made += 1
    await stage.alter("app_owner", f"ALTER TYPE public.invoice_status ADD VALUE 'L{stage.labels_made}'")


async def rename_other_enum_label(stage: SoakStage) -> None:
    new = _OTHER_LABEL[stage.other_label]
    if await stage.alter(
        "app_owner", f"ALTER TYPE public.invoice_status RENAME VALUE '{stage.other_label}' TO '{new}'"
    ):
        stage.other_label = new


async def rename_watched_enum_label(stage: SoakStage) -> None:
    """Rename the value that the rule watches, change the configuration, watch again, and reload the daemons."""
    table = stage.application.tables["invoice"]
    new = _OTHER_LABEL[table.label]
    if not await stage.alter("app_owner", f"ALTER TYPE public.invoice_status RENAME VALUE '{table.label}' TO '{new}'"):
        return
    table.label = new
    stage.write_configuration()
    await stage.rewatch(table.name)
    for daemon in stage.base.daemons:
        daemon.process.send_signal(signal.SIGHUP)
    await stage.pgherald("backfill", table.name)


async def _stop(stage: SoakStage, rule: str, disable: str, how: str) -> None:
    async with stage.gaps.gap(rule, how) as stop:
        if not await stage.alter("app_owner", disable):
            stage.gaps.withdraw(stop)
            return
        await stage.gaps.told(stop)
        while not await stage.alter("app_owner", disable.replace("DISABLE", "ENABLE")):
            stage.say("the triggers are still disabled")
        await stage.gaps.resumed(stop)
        await stage.pgherald("backfill", rule)
