"""One run: hurt for a while, then healed, listened to in the calm, ended in an orderly way, and judged."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg.rows import class_row

from listener import schema
from tests.chaos.faults import Done, Faults
from tests.chaos.judge import Event, Findings, judge
from tests.chaos.plan import plan
from tests.chaos.stage import LEASE, Options, Stage, staged
from tests.chaos.writers import Ledger, Writer

# Far below the poll behind the bell (5 s), which would hide that a ring was lost.
LATE = 3.0
_ENOUGH = 3
_SLOW = 0.05
_WRITERS = 4
_SETTLE = 60.0
_LEFT = {
    "workers": "SELECT count(*) FROM pgherald.worker",
    "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid IN (726354, 726355)",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown.

    `arrivals`: when mails were accepted. `storm`: when it began and ended; both in seconds since the epoch. `calm`:
    seconds from a change to its mail when nothing was wrong.
    """

    options: Options
    findings: Findings
    ledger: Ledger
    done: list[Done]
    arrivals: list[float]
    storm: tuple[float, float]
    calm: list[float]


async def run(options: Options, folder: Path, say: Callable[[str], None]) -> Outcome:
    async with staged(options, folder) as stage:
        faults = Faults(stage, say)
        begun = time.time()
        await _rage(stage, faults)
        over = time.time()
        say("healed")
        calm: list[float] = []
        if not (wrong := await _settled(stage)):
            calm, wrong = await _calm(stage)
            wrong += await _settled(stage)
        wrong += await _ended(stage)
        findings = await _judged(stage)
        findings.wrong += wrong
        return Outcome(options, findings, stage.ledger, faults.done, stage.catcher.arrivals, (begun, over), calm)


async def _rage(stage: Stage, faults: Faults) -> None:
    """Writers and faults, for as long as was asked for, and until every fault is over."""
    options = stage.options
    schedule = plan(options.seed, options.seconds, options.daemons, LEASE, options.kinds, options.gap)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(_WRITERS):
            group.create_task(stage.writer(number).write(stop))
        await faults.inflict(schedule, options.seconds)
        stop.set()
    for daemon in stage.daemons:
        await daemon.start_again()


async def _settled(stage: Stage) -> list[tuple[str, str]]:
    """Wait until nothing is left to do, but what a person must decide; and until only the living are registered."""
    end = time.monotonic() + _SETTLE
    async with await stage.connect() as conn:
        while left := await _unsettled(conn):
            if time.monotonic() > end:
                return [("stuck", f"not settled {_SETTLE:g} s after the last fault: {left}")]
            # As an operator would: what is to be tried again in some minutes is tried now.
            await conn.execute(
                """UPDATE pgherald.outbox SET scheduled_at = now()
                    WHERE state = 'available' AND scheduled_at > now() + interval '2 s'"""
            )
            await asyncio.sleep(0.1)
        while (registered := await _registered(conn)) != (len(stage.daemons), True):
            if time.monotonic() > end:
                return [("stuck", f"{registered} workers are registered and well, of {len(stage.daemons)} that run")]
            await asyncio.sleep(0.1)
    return []


async def _unsettled(conn: psycopg.AsyncConnection[Any]) -> dict[str, int]:
    cursor = await conn.execute(
        """SELECT state, count(*) FROM pgherald.outbox
            WHERE settled_at IS NULL AND NOT (state = 'in_doubt' AND scheduled_at IS NULL) GROUP BY state"""
    )
    return dict(await cursor.fetchall())


async def _registered(conn: psycopg.AsyncConnection[Any]) -> Any:
    cursor = await conn.execute("SELECT count(*), bool_and(locked AND listening) FROM pgherald.worker")
    return await cursor.fetchone()


async def _calm(stage: Stage) -> tuple[list[float], list[tuple[str, str]]]:
    """Two changes at a time, the second while the first is worked on: whether none of them is late.

    One half of them while the database is quick to ring and slow to answer, which gives a ring time to be lost in.
    """
    writer, dice = stage.writer(_WRITERS), Random(f"{stage.options.seed} calm")
    took: list[float] = []
    wrong: list[tuple[str, str]] = []
    listening = await _listening(stage)
    for number in range(stage.options.pairs):
        for proxy in stage.proxies:
            proxy.delay, proxy.spared = _SLOW if number % 2 else 0.0, listening
        changed = await _pair(stage, writer, dice)
        came = stage.catcher.recipients
        if not await _came(stage, changed):
            wrong.append(("late", f"in the calm, no mail within {LATE:g} s for {sorted(changed.keys() - came.keys())}"))
        took += [max(0.0, came[email] - at) for email, at in changed.items() if email in came]
        if len(wrong) >= _ENOUGH:
            break
    await writer.close()
    for proxy in stage.proxies:
        proxy.delay = 0.0
    return took, wrong


async def _listening(stage: Stage) -> set[int]:
    """The ports of the sessions that hear the bell: those that hold a worker's lock."""
    async with await stage.connect() as conn:
        cursor = await conn.execute(
            """SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid)
                WHERE locktype = 'advisory' AND classid = 726355 AND objsubid = 2 AND granted"""
        )
        return {row[0] for row in await cursor.fetchall()}


async def _pair(stage: Stage, writer: Writer, dice: Random) -> dict[str, float]:
    """Who is to get a mail now, and since when."""
    changed: dict[str, float] = {}
    keys = await writer.rows(2)
    await asyncio.sleep(dice.uniform(0.0, 0.2))
    for key in keys:
        await writer.verify([key])
        if (email := stage.ledger.emails[key]).startswith("u"):
            changed[email] = time.time()
        await asyncio.sleep(dice.uniform(0.0, 8 * _SLOW))
    return changed


async def _came(stage: Stage, changed: Mapping[str, float]) -> bool:
    try:
        await stage.catcher.until(lambda: changed.keys() <= stage.catcher.recipients.keys(), LATE)
    except TimeoutError:
        return False
    return True


async def _ended(stage: Stage) -> list[tuple[str, str]]:
    """SIGTERM to all: nobody leaves anything behind, and nothing was said that should not have been."""
    await asyncio.gather(*(daemon.stop() for daemon in stage.daemons))
    await stage.catcher.until(lambda: not stage.catcher.sessions)
    wrong = []
    async with await stage.connect() as conn:
        for what, query in _LEFT.items():
            row = await (await conn.execute(query)).fetchone()
            if row is None or row[0]:
                wrong.append(("left behind", f"{row and row[0]} {what}, when all daemons had ended"))
    for daemon in stage.daemons:
        daemon.read_logs()
        wrong += [("complaint", complaint) for complaint in daemon.complaints]
    return wrong


async def _judged(stage: Stage) -> Findings:
    async with await stage.connect() as conn:
        async with conn.cursor(row_factory=class_row(Event)) as cursor:
            await cursor.execute(
                """SELECT id, rule, key, state, reason, doubts, captured_at, claimed_at, scheduled_at, history
                     FROM pgherald.outbox"""
            )
            events = await cursor.fetchall()
        statuses = dict(await (await conn.execute("SELECT id, status FROM public.dateplan")).fetchall())
        secret = await schema.secret(conn)
    hold = stage.options.policy == "hold"
    return judge(stage.ledger, events, stage.catcher.copies, statuses, secret, hold=hold)
