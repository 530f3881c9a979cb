"""After the faults: check that no ring is lost, and measure how long an email takes."""

import asyncio
import time
from random import Random
from typing import Any

import psycopg

from tests.chaos.stage import Stage
from tests.chaos.writers import Writer

# Far below the poll behind the bell (5 s), which would hide that a ring was lost.
LATE = 3.0
_ENOUGH = 3
_SLOW = 0.05
# The sessions that hear the bell are those that hold a worker's lock.
_LISTENING = """
    SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid)
     WHERE locktype = 'advisory' AND classid = 726355 AND objsubid = 2 AND granted"""
_GATE = """
    SELECT count(*) FROM pg_locks
     WHERE locktype = 'advisory' AND classid = 726354 AND objid = 1 AND mode = 'ExclusiveLock' AND granted"""


async def listen(stage: Stage) -> tuple[list[float], list[tuple[str, str]]]:
    """Two changes at a time, the second while the first is worked on: none may be late. Gives what they took, in seconds.

    Two thirds of them run while the database is quick to ring and slow to answer, so that a ring has time to get lost.
    In every other of these the second change is in progress when a daemon looks for the last time before it sleeps.
    """
    writer, dice = stage.writer(-1), Random(f"{stage.options.seed} calm")
    took: list[float] = []
    wrong: list[tuple[str, str]] = []
    async with await stage.connect() as conn:
        for number in range(stage.options.pairs):
            spared = {row[0] for row in await (await conn.execute(_LISTENING)).fetchall()}
            for proxy in stage.proxies:
                proxy.delay, proxy.spared = _SLOW if number % 3 else 0.0, spared
            changed = await _pair(stage, writer, conn, dice, aimed=number % 3 == 2)
            late = await _late(stage, changed)
            if late:
                wrong.append(("late", f"in the calm, no mail within {LATE:g} s for {', '.join(late)}"))
            came = stage.catcher.recipients
            took += [max(0.0, came[email] - at) for email, at in changed.items() if email in came]
            if len(wrong) >= _ENOUGH:
                break
    await writer.close()
    for proxy in stage.proxies:
        proxy.delay = 0.0
    return took, wrong


async def _pair(
    stage: Stage, writer: Writer, conn: psycopg.AsyncConnection[Any], dice: Random, *, aimed: bool
) -> dict[str, float]:
    """Return the addresses that are due an email now, each with the time of its change."""
    changed: dict[str, float] = {}
    first, second = await writer.rows(2)
    await asyncio.sleep(dice.uniform(0.0, 0.2))
    if aimed:
        await _gate(conn, closed=True)
    await _change(stage, writer, first, changed)
    if aimed:
        # It is closed for the last look: that has a slow way to go, and to come back.
        await _gate(conn, closed=False)
        await _gate(conn, closed=True)
        await asyncio.sleep(dice.uniform(0.0, 3 * _SLOW))
    else:
        await asyncio.sleep(dice.uniform(0.0, 8 * _SLOW))
    await _change(stage, writer, second, changed)
    return changed


async def _change(stage: Stage, writer: Writer, key: int, changed: dict[str, float]) -> None:
    await writer.verify([key])
    if (email := stage.ledger.emails[key]).startswith("u"):
        changed[email] = time.time()


async def _gate(conn: psycopg.AsyncConnection[Any], *, closed: bool) -> None:
    """Wait for it to be so; not for long, since it may have been so for a moment only."""
    end = time.monotonic() + 1.0
    while await (await conn.execute(_GATE)).fetchone() != (int(closed),) and time.monotonic() < end:
        await asyncio.sleep(0.001)


async def _late(stage: Stage, changed: dict[str, float]) -> list[str]:
    came = stage.catcher.recipients
    try:
        await stage.catcher.until(lambda: changed.keys() <= came.keys(), LATE)
    except TimeoutError:
        return sorted(changed.keys() - came.keys())
    return []
