"""The application's sessions: each transaction runs in the watched database and, beside it, in the twin."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.chaos.soak.failures import Failure, describe
from tests.chaos.soak.gaps import Gaps
from tests.chaos.soak.tables import Table
from tests.chaos.soak.writes import WRITES, Rows, Write
from tests.chaos.writers import Ledger

_PAUSE = (0.0, 0.15)
# A session that is not long-lived ends after so many writes. The next one has the role's present settings.
_SHORT = 15


@dataclass
class Record:
    """The application's own record. `ledgers`: by table. `change`: the schema change in progress, or the last one."""

    ledgers: dict[str, Ledger]
    gaps: Gaps
    change: str = "none yet"
    failures: list[Failure] = field(default_factory=list)
    twin: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    sessions: int = 0


class Session:
    """One session of the application in each database. A long-lived one stays open over every schema change."""

    def __init__(
        self, connect: Sequence[Callable[[], Any]], record: Record, chance: random.Random, *, long: bool
    ) -> None:
        self._connect = connect
        self._record = record
        self._chance = chance
        self._long = long
        self._rows: dict[str, Rows] = {}
        self._pair: list[psycopg.AsyncConnection[Any]] = []

    async def write(self, tables: Sequence[Table], stop: asyncio.Event) -> None:
        """Write until told to stop."""
        done = 0
        while not stop.is_set():
            table = self._chance.choice(tables)
            rows = self._rows.setdefault(table.name, Rows(self._record.ledgers[table.name], self._chance))
            (kind,) = self._chance.choices(list(WRITES), [weight for _, weight in WRITES.values()])
            for write in WRITES[kind][0](table, rows, self._chance):
                await asyncio.sleep(write.after)
                if not await self._both(table, rows, write):
                    break
            self._record.writes[kind] += 1
            done += 1
            if not self._long and done % _SHORT == 0:
                await self.close()
            await asyncio.sleep(self._chance.uniform(*_PAUSE))
        await self.close()

    async def close(self) -> None:
        for conn in self._pair:
            await conn.close()
        self._pair = []

    async def _both(self, table: Table, rows: Rows, write: Write) -> bool:
        """Run the transaction in both databases. Return whether it took effect in the watched one."""
        if any(conn.closed for conn in self._pair) or not self._pair:
            await self.close()
            self._pair = [await connect() for connect in self._connect]
            self._record.sessions += 1
        begun = time.time()
        ledger = self._record.ledgers[table.name]
        # Before the statements run, because an email may be decided on as soon as they have.
        ledger.left.update(write.leaves)
        (result, error), (_, other) = await asyncio.gather(*(_run(conn, write) for conn in self._pair))
        if other is not None:
            self._record.twin[describe(other)[0]] += 1
        if error is not None:
            state, text = describe(error)
            twin = None if other is None else describe(other)[0]
            self._record.failures.append(Failure(table.name, write.name, self._record.change, state, text, twin))
            ledger.rolled_back += 1
            ledger.undone.update(write.becomes)
            return False
        if not write.keep:
            ledger.rolled_back += 1
            ledger.undone.update(result)
            return True
        ledger.committed += 1
        if self._record.gaps.touched(table.name, begun):
            ledger.missed.update(result)
            # Without the trigger that sees a row leave its partition, a move looks like a new row.
            ledger.missed.update(write.moves)
            ledger.left.update(write.moves)
            ledger.became.update(write.moves)
        ledger.became.update(result)
        rows.committed(result)
        return True


async def _run(conn: psycopg.AsyncConnection[Any], write: Write) -> tuple[list[int], psycopg.Error | None]:
    """Return the keys that reached the value, and the error if there was one."""
    became: list[int] = []
    try:
        await conn.execute("BEGIN")
        for step in write.steps:
            await asyncio.sleep(step.after)
            if step.rows:
                async with conn.cursor().copy(step.sql) as copy:
                    for row in step.rows:
                        await copy.write_row(row)
                became += step.becomes
                continue
            cursor = await conn.execute(step.sql, step.parameters)
            became += [int(row[0]) for row in await cursor.fetchall()] if cursor.description else step.becomes
        await conn.execute("COMMIT" if write.keep else "ROLLBACK")
    except psycopg.Error as error:
        if not conn.closed:
            await conn.execute("ROLLBACK")
        return [], error
    return became, None
