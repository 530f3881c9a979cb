"""The application: it commits and rolls back, lingers and bursts, and knows afterwards which changes came to be."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.chaos.catcher import REFUSED

TABLES = """
    -- One row a transaction that changes something: what became of a COMMIT whose answer was lost is asked of it.
    CREATE TABLE public.change (token bigint PRIMARY KEY);
    CREATE ROLE application LOGIN PASSWORD 'application';
    GRANT SELECT, INSERT, UPDATE ON public.users, public.plan, public.dateplan, public.change TO application;
"""
UNWILLING = "n"
_PLACES = ("Café Zürich", "O'Hara's “Pub”", "寿司 & more", "Place <b>", ". dot at the start")
_PAUSE = (0.0, 0.15)
_STORIES = {
    "update": 30,
    "batch": 20,
    "insert": 12,
    "roll back": 14,
    "savepoint": 9,
    "linger": 5,
    "again": 9,
    "burst": 1,
}


@dataclass
class Ledger:
    """The application's own record of its changes. A key is a row's id.

    `became`: how many committed changes took the row into the value. `left`: rows that were taken out of it.
    `undone`: rows that were taken there and rolled back. `emails`: each row's own. `missed`: how many of the changes came
    while capture was stopped, so that one event may stand for several. `gone`: rows that were removed. `most_people`: how
    many people a row has at most; 0: the rule has no `each`.
    """

    became: Counter[int] = field(default_factory=Counter)
    left: set[int] = field(default_factory=set)
    undone: set[int] = field(default_factory=set)
    emails: dict[int, str] = field(default_factory=dict)
    missed: Counter[int] = field(default_factory=Counter)
    gone: set[int] = field(default_factory=set)
    committed: int = 0
    rolled_back: int = 0
    unknown: int = 0
    most_people: int = 0
    _keys: Any = field(default_factory=lambda: itertools.count(1))
    _tokens: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def silent(self) -> set[int]:
        """Rows whose every change was rolled back."""
        return {key for key in self.undone if not self.became[key]}

    def people(self, key: int) -> set[str]:
        """The people of a row, as the lookup of `stage` has them."""
        return {str(number) for number in range(1 + key % self.most_people)} if self.most_people else set()

    def email(self, key: int, person: str | None) -> str:
        """The address of a person of a row. Only the first one may be unwilling, or unknown to the mail server."""
        return self.emails[key] if person in (None, "0") else f"p{person}.{self.emails[key]}"

    def start_keys(self, first: int) -> None:
        """Let the keys begin with this one."""
        self._keys = itertools.count(first)

    def new_keys(self, number: int, chance: random.Random) -> list[int]:
        keys = list(itertools.islice(self._keys, number))
        for key in keys:
            (first,) = chance.choices(("u", REFUSED, UNWILLING), (94, 3, 3))
            self.emails[key] = f"{first}{key}@example.org"
        return keys

    def new_token(self) -> int:
        return int(next(self._tokens))


class Writer:
    """One session of the application, and another whenever that one is lost."""

    def __init__(self, dsn: str, ledger: Ledger, chance: random.Random) -> None:
        self._dsn = dsn
        self._ledger = ledger
        self._chance = chance
        self._mine: list[int] = []
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._unknown: tuple[int, int, list[int], list[int]] | None = None

    async def write(self, stop: asyncio.Event) -> None:
        """Until told to stop, and then until nothing is unknown."""
        while not stop.is_set() or self._unknown is not None:
            try:
                conn = await self._session()
                if not stop.is_set():
                    await self._tell(conn)
                pause = self._chance.uniform(*_PAUSE)
            except psycopg.OperationalError:
                await self.close()
                # The database is unavailable, and rapid retries would keep it so.
                pause = 0.1
            await asyncio.sleep(pause)
        await self.close()

    async def close(self) -> None:
        if self._conn is not None:
            await self._conn.close()

    async def rows(self, number: int) -> list[int]:
        """New rows that wait. Nothing is known of them to anybody else."""
        keys = self._ledger.new_keys(number, self._chance)
        await self._insert(await self._session(), keys, "PE")
        return keys

    async def verify(self, keys: Sequence[int]) -> None:
        await self._change(await self._session(), keys)

    async def _tell(self, conn: psycopg.AsyncConnection[Any]) -> None:
        (story,) = self._chance.choices(list(_STORIES), list(_STORIES.values()))
        match story:
            case "update":
                await self._change(conn, await self.rows(1))
            case "batch":
                await self._change(conn, await self.rows(self._chance.randint(2, 15)))
            case "insert":
                await self._change(conn, self._ledger.new_keys(1, self._chance), insert=True)
            case "roll back":
                await self._change(conn, await self.rows(self._chance.randint(1, 10)), keep=False)
            case "savepoint":
                keys = await self.rows(4)
                await self._change(conn, keys[:2], undo=keys[2:])
            case "linger":
                await self._change(conn, await self.rows(2), linger=self._chance.uniform(0.1, 1.0))
            case "burst":
                await self._change(conn, await self.rows(200))
            case "again":
                await self._again(conn)

    async def _again(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """A row leaves the value, be its mail sent or not, and reaches it once more."""
        if not self._mine:
            return
        key = self._mine.pop(self._chance.randrange(len(self._mine)))
        self._ledger.left.add(key)
        await conn.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (key,))
        await asyncio.sleep(self._chance.choice([0, 0, 0.05, 0.5]))
        await self._change(conn, [key])

    async def _change(
        self,
        conn: psycopg.AsyncConnection[Any],
        keys: Sequence[int],
        *,
        undo: Sequence[int] = (),
        insert: bool = False,
        keep: bool = True,
        linger: float = 0.0,
    ) -> None:
        """Take rows to the value in one transaction; those of `undo` in a savepoint that is rolled back."""
        token = self._ledger.new_token()
        became: list[int] = []
        undone: list[int] = []
        try:
            await conn.execute("BEGIN")
            await conn.execute("INSERT INTO public.change (token) VALUES (%s)", (token,))
            if insert:
                became += keys
                await self._insert(conn, keys, "VE")
            else:
                became += await self._update(conn, keys)
            if undo:
                await conn.execute("SAVEPOINT sometimes")
                undone += await self._update(conn, undo)
                await conn.execute("ROLLBACK TO SAVEPOINT sometimes")
            await asyncio.sleep(linger)
            if not keep:
                await conn.execute("ROLLBACK")
        except psycopg.OperationalError:
            self._rolled_back(became + undone)
            raise
        if not keep:
            self._rolled_back(became + undone)
            return
        pid = conn.info.backend_pid
        try:
            await conn.execute("COMMIT")
        except psycopg.OperationalError:
            self._ledger.unknown += 1
            self._unknown = token, pid, became, undone
            raise
        self._committed(became, undone)

    def _committed(self, became: list[int], undone: list[int]) -> None:
        self._ledger.committed += 1
        self._ledger.became.update(became)
        self._ledger.undone.update(undone)
        # Rows that go through it again have ordinary owners, so that each of their emails is expected.
        self._mine += [key for key in became if self._ledger.emails[key].startswith("u")]

    def _rolled_back(self, keys: list[int]) -> None:
        self._ledger.rolled_back += 1
        self._ledger.undone.update(keys)

    async def _session(self) -> psycopg.AsyncConnection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, connect_timeout=5)
            self._conn.prepare_threshold = None
        if self._unknown is not None:
            await self._find_out(self._conn, *self._unknown)
            self._unknown = None
        return self._conn

    async def _find_out(
        self, conn: psycopg.AsyncConnection[Any], token: int, pid: int, became: list[int], undone: list[int]
    ) -> None:
        """Return whether a COMMIT without an answer took effect: the transaction's row shows it once the session is gone."""
        alive = "SELECT FROM pg_stat_activity WHERE pid = %s AND backend_start < (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"
        while (await conn.execute(alive, (pid,))).rowcount:
            await asyncio.sleep(0.01)
        if (await conn.execute("SELECT FROM public.change WHERE token = %s", (token,))).rowcount:
            self._committed(became, undone)
        else:
            self._rolled_back(became + undone)

    async def _insert(self, conn: psycopg.AsyncConnection[Any], keys: Sequence[int], status: str) -> None:
        await conn.execute(
            """WITH new AS MATERIALIZED (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::boolean[]) AS new (id, email, consent)),
                    u AS (INSERT INTO public.users (id, email, email_notifications_enabled) SELECT * FROM new),
                    p AS (INSERT INTO public.plan (id, place) SELECT id, %s FROM new)
               INSERT INTO public.dateplan (id, user_id, plan_id, status) SELECT id, id, id, %s FROM new""",
            (
                list(keys),
                [self._ledger.emails[key] for key in keys],
                [not self._ledger.emails[key].startswith(UNWILLING) for key in keys],
                self._chance.choice(_PLACES),
                status,
            ),
        )

    @staticmethod
    async def _update(conn: psycopg.AsyncConnection[Any], keys: Sequence[int]) -> list[int]:
        cursor = await conn.execute(
            "UPDATE public.dateplan SET status = 'VE' WHERE id = ANY (%s) AND status <> 'VE' RETURNING id",
            (list(keys),),
        )
        return [row[0] for row in await cursor.fetchall()]
