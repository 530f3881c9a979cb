"""One run: hurt for a while, then healed, listened to in the calm, ended in an orderly way, and judged."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

from listener.db import schema
from tests.chaos.calm import listen
from tests.chaos.faults import Done, Faults
from tests.chaos.judge import Event, Findings, judge
from tests.chaos.plan import plan
from tests.chaos.stage import LEASE, Options, Stage, staged
from tests.chaos.writers import Ledger

_WRITERS = 4
# A backlog of thousands, by few and slow connections, on a machine that has other things to do.
_SETTLE = 230.0
_LEFT = {
    "workers": "SELECT count(*) FROM pgherald.worker",
    "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid IN (726354, 726355)",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    `arrivals`: when messages were accepted. `storm`: when it began and ended; both in seconds since the epoch. `calm`:
    seconds from a change to its email when nothing was wrong.
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
        if not (wrong := await settled(stage)):
            calm, wrong = await listen(stage)
            wrong += await settled(stage)
        wrong += await ended(stage)
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


async def settled(stage: Stage) -> list[tuple[str, str]]:
    """Wait until nothing is left to do, but what a person must decide; and until only the living are registered."""
    least, end = math.inf, 0.0
    async with await stage.connect() as conn:
        while left := await _unsettled(conn):
            # The writers may be faster than the mail server, so a backlog of any length has its time.
            if sum(left.values()) < least:
                least, end = sum(left.values()), time.monotonic() + _SETTLE
            if time.monotonic() > end:
                return [("stuck", f"no fewer unsettled for {_SETTLE:g} s after the last fault: {left}")]
            # As an operator would: what is to be tried again in some minutes is tried now.
            await conn.execute(
                """UPDATE pgherald.outbox SET scheduled_at = now()
                    WHERE state = 'available' AND scheduled_at > now() + interval '2 s'"""
            )
            await asyncio.sleep(0.1)
        end = time.monotonic() + _SETTLE
        while (registered := await _registered(conn)) != (len(stage.daemons), True):
            if time.monotonic() > end:
                return [("stuck", f"{registered} workers are registered and well, of {len(stage.daemons)} that run")]
            await asyncio.sleep(0.1)
    return []


async def _unsettled(conn: psycopg.AsyncConnection[Any]) -> dict[str, int]:
    cursor = await conn.execute(
        """SELECT state, count(*)
             FROM (SELECT state FROM pgherald.outbox
                    WHERE settled_at IS NULL AND NOT (state = 'in_doubt' AND scheduled_at IS NULL)
                   UNION ALL
                   SELECT 'in the inbox' FROM pgherald.inbox) AS event
            GROUP BY state"""
    )
    return dict(await cursor.fetchall())


async def _registered(conn: psycopg.AsyncConnection[Any]) -> Any:
    cursor = await conn.execute("SELECT count(*), bool_and(has_presence_lock AND listening) FROM pgherald.worker")
    return await cursor.fetchone()


async def ended(stage: Stage) -> list[tuple[str, str]]:
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
                """SELECT id, rule, key, state, reason, in_doubt_count, captured_at, claimed_at, scheduled_at, history,
                          person
                     FROM pgherald.outbox"""
            )
            events = await cursor.fetchall()
        statuses = dict(await (await conn.execute("SELECT id, status FROM public.dateplan")).fetchall())
        secret = await schema.secret(conn)
    hold = stage.options.policy == "hold"
    return judge(stage.ledger, events, stage.catcher.copies, statuses, secret, hold=hold)
