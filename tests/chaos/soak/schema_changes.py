"""Changes of the watched tables by their owner, as migrations make them."""

from tests.chaos.soak.stage import SoakStage
from tests.chaos.soak.tables import view_sql

_OTHER_TYPE = {"integer": "bigint", "bigint": "integer", "text": "varchar(200)", "varchar(200)": "text"}
_DROP_VIEW = "DROP VIEW public.booking_mail"
# The tables that no view depends on: the server refuses to change the type of a view's column.
_WITHOUT_VIEW = ("ticket", "invoice", "parcel", "visit")


async def add_and_drop_column(stage: SoakStage) -> None:
    """Add a column with a default, and drop it again."""
    table = stage.table().full_name
    if await stage.alter("app_owner", f"ALTER TABLE {table} ADD COLUMN extra text NOT NULL DEFAULT 'x'"):
        await stage.alter("app_owner", f"ALTER TABLE {table} DROP COLUMN extra")


async def change_type_of_looked_up_column(stage: SoakStage) -> None:
    table = stage.table(*_WITHOUT_VIEW)
    wanted = _OTHER_TYPE[table.place_type]
    if await stage.alter("app_owner", f"ALTER TABLE {table.full_name} ALTER COLUMN place TYPE {wanted}"):
        table.place_type = wanted


async def change_type_of_key(stage: SoakStage) -> None:
    """Change integer to bigint in place, or back."""
    table = stage.table(*_WITHOUT_VIEW)
    wanted = _OTHER_TYPE[table.key_type]
    if await stage.alter("app_owner", f"ALTER TABLE {table.full_name} ALTER COLUMN id TYPE {wanted}"):
        table.key_type = wanted


async def swap_key_column(stage: SoakStage) -> None:
    """Replace the key column by one of the other type that has the same name."""
    table = stage.application.tables["booking"]
    wanted = _OTHER_TYPE[table.key_type]
    done = await stage.alter(
        "app_owner",
        "LOCK TABLE public.booking IN ACCESS EXCLUSIVE MODE",
        _DROP_VIEW,
        f"ALTER TABLE public.booking ADD COLUMN id_new {wanted}",
        "UPDATE public.booking SET id_new = id",
        "ALTER TABLE public.booking RENAME COLUMN id TO id_old",
        "ALTER TABLE public.booking RENAME COLUMN id_new TO id",
        "ALTER TABLE public.booking DROP COLUMN id_old, ADD PRIMARY KEY (id)",
        view_sql(table),
    )
    if done:
        table.key_type = wanted


async def rename_looked_up_column(stage: SoakStage) -> None:
    """Rename it and let the view show it under the old name."""
    table = stage.application.tables["booking"]
    old = table.place
    new = "venue" if old == "place" else "place"
    rename = f"ALTER TABLE public.booking RENAME COLUMN {old} TO {new}"
    table.place = new
    view = view_sql(table)
    table.place = old
    if await stage.alter("app_owner", _DROP_VIEW, rename, view):
        table.place = new


async def swap_table(stage: SoakStage) -> None:
    """Put a copy in the table's place. The operator then watches it, and backfills the rows written in between."""
    table = stage.table("booking", "invoice", "parcel", "visit")
    name, has_view = table.full_name, table.name == "booking"
    async with stage.gaps.gap(table.name, "table swapped") as stop:
        done = await stage.alter(
            "app_owner",
            f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
            *([_DROP_VIEW] if has_view else []),
            f"CREATE TABLE {name}_new (LIKE {name} INCLUDING ALL)",
            f"INSERT INTO {name}_new SELECT * FROM {name}",
            f"ALTER TABLE {name} RENAME TO {table.name}_old",
            f"ALTER TABLE {name}_new RENAME TO {table.name}",
            table.grants,
            *([view_sql(table)] if has_view else []),
        )
        if not done:
            stage.gaps.withdraw(stop)
            return
        await stage.gaps.told(stop)
        await stage.rewatch(table.name)
        await stage.gaps.resumed(stop)
        await stage.pgherald("backfill", table.name)
    await stage.alter("app_owner", f"DROP TABLE {name}_old")
