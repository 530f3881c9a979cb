"""Changes of the partitioned table's partitions by its owner, who has no right on the schema pgherald."""

import asyncio

import psycopg

from tests.chaos.soak.stage import WATCHED, SoakStage
from tests.chaos.writers import UNWILLING

_HIDDEN_ROWS = 5


async def make_partition(stage: SoakStage) -> None:
    table = stage.application.tables["ticket"]
    region = _new_region(stage)
    if await stage.alter(
        "app_owner", f"CREATE TABLE public.ticket_{region} PARTITION OF public.ticket FOR VALUES IN ('{region}')"
    ):
        table.regions.append(region)


async def attach_partition(stage: SoakStage) -> None:
    table = stage.application.tables["ticket"]
    region = _new_region(stage)
    if await stage.alter(
        "app_owner",
        f"CREATE TABLE public.ticket_{region} (LIKE public.ticket INCLUDING ALL)",
        f"ALTER TABLE public.ticket ATTACH PARTITION public.ticket_{region} FOR VALUES IN ('{region}')",
    ):
        table.regions.append(region)


async def detach_and_attach_partition(stage: SoakStage) -> None:
    """Take a partition away with its rows, and bring it back. Rows that are away get no email."""
    table = stage.application.tables["ticket"]
    if len(table.regions) == 1:
        return
    region = stage.chance.choice(table.regions)
    table.regions.remove(region)
    partition = f"public.ticket_{region}"
    if await stage.alter("app_owner", f"ALTER TABLE public.ticket DETACH PARTITION {partition}"):
        async with await stage.base.connect() as conn:
            rows = await (await conn.execute(f"SELECT id FROM {partition}")).fetchall()
        stage.record.ledgers["ticket"].gone.update(key for (key,) in rows)
        await asyncio.sleep(stage.chance.uniform(0.0, 2.0))
        attach = f"ALTER TABLE public.ticket ATTACH PARTITION {partition} FOR VALUES IN ('{region}')"
        if not await stage.alter("app_owner", attach):
            return
    table.regions.append(region)


async def truncate_partition(stage: SoakStage) -> None:
    """Fill a partition of its own and empty it: its rows may get their email or not."""
    ledger = stage.record.ledgers["ticket"]
    keys = [key for key in ledger.new_keys(_HIDDEN_ROWS, stage.chance) if not ledger.emails[key].startswith(UNWILLING)]
    ledger.gone.update(keys)
    async with await psycopg.AsyncConnection.connect(stage.dsn("application", WATCHED), autocommit=True) as conn:
        await conn.execute(
            "INSERT INTO public.ticket (id, region, status, email, consent, place)"
            " SELECT id, 'trash', 'VE', email, true, 'Bin' FROM unnest(%s::bigint[], %s::text[]) AS new (id, email)",
            (keys, [ledger.emails[key] for key in keys]),
        )
    ledger.became.update(keys)
    await stage.alter("app_owner", "TRUNCATE public.ticket_trash")


def _new_region(stage: SoakStage) -> str:
    stage.regions_made += 1
    return f"r{stage.regions_made}"
