"""One run: writers beside schema changes for a while, then calm until everything is settled, then the verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from psycopg.rows import class_row

from listener.db import schema
from listener.demo.cluster import Cluster
from listener.message_id import make_message_id
from tests.chaos.judge import Event, Findings, judge
from tests.chaos.soak.failures import Failure, ours
from tests.chaos.soak.gaps import Stop
from tests.chaos.soak.schedule import CHANGES, schedule
from tests.chaos.soak.sessions import Record, Session
from tests.chaos.soak.stage import SoakStage, new_cluster, staged
from tests.chaos.soak.switchover import replicate, switch
from tests.chaos.soak.tables import Table
from tests.chaos.storm import ended, settled

_LONG_LIVED, _SHORT_LIVED = 4, 2
_PAUSE_S = (0.2, 1.5)
_AFTER_SWITCH_S = 5.0
T = TypeVar("T")


@dataclass
class Outcome:
    """The result of a run. `done`: how often each change was made. `ours`: failed writes that pgherald caused."""

    seed: int
    seconds: float
    record: Record
    done: Counter[str]
    refused: list[str]
    stops: list[Stop]
    ours: list[Failure]
    wrong: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Findings] = field(default_factory=list)


async def run(
    seed: int, seconds: float, names: Sequence[str], folder: Path, say: Callable[[str], None], *, switchover: bool
) -> Outcome:
    """Run with these changes, move to another server if `switchover`, and judge."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged(seed, seconds, folder, say))
        sessions = [stage.session(number, long=number < _LONG_LIVED) for number in range(_LONG_LIVED + _SHORT_LIVED)]
        done = await _beside_writers(stage, sessions, _change(stage, seed, seconds, names))
        wrong: list[tuple[str, str]] = []
        if switchover:
            target = new_cluster()
            stack.callback(target.close)
            wrong += await _move(stage, sessions, target)
            done["switchover"] += 1
        wrong += await settled(stage.base)
        wrong += await ended(stage.base)
        record = stage.record
        found = ours(record.failures, record.twin)
        outcome = Outcome(seed, seconds, record, done, stage.refused, stage.gaps.stops, found, wrong)
        wrong += [("failed write", f"{failure.change}: {failure.text}") for failure in found]
        wrong += [("refused", what) for what in stage.refused]
        wrong += [("untold", str(stop)) for stop in stage.gaps.stops if not stop.seen]
        wrong += [("false alarm", str(line)) for line in stage.gaps.false_alarms()]
        await _judge(stage, outcome)
        return outcome


async def _beside_writers(stage: SoakStage, sessions: Sequence[Session], work: Coroutine[Any, Any, T]) -> T:
    """Let the application write until the work is done."""
    stop = asyncio.Event()
    tables = list(stage.application.tables.values())
    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(session.write(tables, stop))
        result = await work
        stop.set()
    return result


async def _change(stage: SoakStage, seed: int, seconds: float, names: Sequence[str]) -> Counter[str]:
    """Make one change after the other."""
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for name in schedule(seed, names):
        await asyncio.sleep(stage.chance.uniform(*_PAUSE_S))
        if time.monotonic() > end:
            break
        stage.say(f"{seconds - end + time.monotonic():7.2f} s  {name}")
        stage.record.change = name
        await CHANGES[name](stage)
        done[name] += 1
    return done


async def _move(stage: SoakStage, sessions: Sequence[Session], target: Cluster) -> list[tuple[str, str]]:
    """Move to the other server: the application writes while it is copied, pauses for the switch, and writes there."""
    stage.say("switchover")
    stage.record.change = "switchover"
    await asyncio.to_thread(target.start)
    await _beside_writers(stage, sessions, replicate(stage, target))
    wrong = await ended(stage.base)
    await switch(stage, target)
    await stage.start_daemons()
    await _beside_writers(stage, sessions, asyncio.sleep(_AFTER_SWITCH_S))
    return wrong


async def _judge(stage: SoakStage, outcome: Outcome) -> None:
    """Judge each rule by itself, and look for the last change of each row."""
    async with await stage.base.connect() as conn:
        async with conn.cursor(row_factory=class_row(Event)) as cursor:
            await cursor.execute(
                """SELECT id, rule, key, state, reason, in_doubt_count, captured_at, claimed_at, scheduled_at, history
                     FROM pgherald.outbox"""
            )
            events = await cursor.fetchall()
        secret = await schema.secret(conn)
        copies = dict(stage.base.catcher.copies)
        for table in stage.application.tables.values():
            rows = await (await conn.execute(f"SELECT id, status::text, changed_at FROM {table.full_name}")).fetchall()
            here = [event for event in events if event.rule == table.name]
            keys = {make_message_id(secret, event.rule, event.id, event.captured_at) for event in here}
            mails = {key: copies.pop(key) for key in keys & copies.keys()}
            statuses = {key: "VE" if _in_value(table, status) else status for key, status, _ in rows}
            found = judge(stage.record.ledgers[table.name], here, mails, statuses, secret, hold=False)
            outcome.findings.append(found)
            outcome.wrong += [(word, f"{table.name}: {what}") for word, what in found.wrong]
            reached = {key: changed for key, status, changed in rows if _in_value(table, status)}
            outcome.wrong += _uncaptured(table, here, reached)
    outcome.wrong += [("invented", f"an email to {copies[key][0].recipient} of no event") for key in copies]


def _in_value(table: Table, status: str) -> bool:
    return status.upper() == table.label


def _uncaptured(table: Table, events: Sequence[Event], reached: dict[int, datetime]) -> list[tuple[str, str]]:
    """Find rows in the value whose last change has no event, although an earlier one may have."""
    last: dict[int, datetime] = {}
    for event in events:
        key = int(event.key)
        last[key] = max(event.captured_at, last.get(key, event.captured_at))
    return [
        ("lost", f"{table.name}: row {key} reached the value at {changed}, after its last event")
        for key, changed in reached.items()
        if key in last and last[key] < changed
    ]
