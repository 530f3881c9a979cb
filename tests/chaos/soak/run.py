"""One run: writers beside schema changes for a while, then calm until everything is settled, then the verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from psycopg.rows import class_row

from listener.db import schema
from listener.mail.message import make_message_id
from tests.chaos.judge import Event, Findings, judge
from tests.chaos.soak.failures import Failure, ours
from tests.chaos.soak.gaps import Stop
from tests.chaos.soak.schedule import CHANGES, schedule
from tests.chaos.soak.sessions import Record
from tests.chaos.soak.stage import SoakStage, staged
from tests.chaos.soak.tables import Table
from tests.chaos.storm import ended, settled

_LONG_LIVED, _SHORT_LIVED = 4, 2
_PAUSE_S = (0.2, 1.5)


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


async def run(seed: int, seconds: float, names: Sequence[str], folder: Path, say: Callable[[str], None]) -> Outcome:
    """Run with these changes, and judge."""
    async with staged(seed, seconds, folder, say) as stage:
        done = await _change(stage, seed, seconds, names)
        record = stage.record
        outcome = Outcome(
            seed, seconds, record, done, stage.refused, stage.gaps.stops, ours(record.failures, record.twin)
        )
        wrong = outcome.wrong
        wrong += await settled(stage.base)
        wrong += await ended(stage.base)
        wrong += [("failed write", f"{failure.change}: {failure.text}") for failure in outcome.ours]
        wrong += [("refused", what) for what in stage.refused]
        wrong += [("untold", str(stop)) for stop in stage.gaps.stops if not stop.seen]
        wrong += [("false alarm", str(line)) for line in stage.gaps.false_alarms()]
        await _judge(stage, outcome)
        return outcome


async def _change(stage: SoakStage, seed: int, seconds: float, names: Sequence[str]) -> Counter[str]:
    """Make one change after the other, and let the writers end then."""
    done: Counter[str] = Counter()
    stop = asyncio.Event()
    tables = list(stage.application.tables.values())
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(_LONG_LIVED + _SHORT_LIVED):
            session = stage.session(number, long=number < _LONG_LIVED)
            group.create_task(session.write(tables, stop))
        for name in schedule(seed, names):
            await asyncio.sleep(stage.chance.uniform(*_PAUSE_S))
            if time.monotonic() > end:
                break
            stage.say(f"{seconds - end + time.monotonic():7.2f} s  {name}")
            stage.record.change = name
            await CHANGES[name](stage)
            done[name] += 1
        stop.set()
    return done


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
