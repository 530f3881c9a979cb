"""The transactions of the application, as statements that can run in either database."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.soak.tables import Table
from tests.chaos.writers import UNWILLING, Ledger

_PLACES = ("Café Zürich", "O'Hara's “Pub”", "寿司 & more", "Place <b>", "Tab\there", "Back\\slash")
_LINGER = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One statement. `rows`: those of a COPY. `becomes`: the keys that it takes to the value if it returns none itself.

    `after`: seconds to wait before it.
    """

    sql: str
    parameters: Sequence[Any] = ()
    rows: Sequence[Sequence[Any]] = ()
    becomes: Sequence[int] = ()
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Write:
    """One transaction. `leaves`: keys that are taken out of the value. `moves`: keys that stay in it, in another partition.

    `after`: seconds to wait before it.
    """

    name: str
    steps: Sequence[Step]
    leaves: Sequence[int] = ()
    moves: Sequence[int] = ()
    keep: bool = True
    after: float = 0.0

    @property
    def becomes(self) -> list[int]:
        return [key for step in self.steps for key in step.becomes]


@dataclass
class Rows:
    """The rows of one table that one session has written. No other session writes them."""

    ledger: Ledger
    chance: random.Random
    verified: list[int] = field(default_factory=list)

    def committed(self, became: Sequence[int]) -> None:
        # Rows that change again have ordinary owners, so that each of their emails is expected.
        known = {*self.verified}
        self.verified += [key for key in became if key not in known and self.ledger.emails[key].startswith("u")]

    def take(self) -> list[int]:
        """Return the key of one row in the value, if there are any."""
        return [self.chance.choice(self.verified)] if self.verified else []


def _new(table: Table, rows: Rows, number: int, label: str | None = None) -> tuple[list[int], Step]:
    """Return new keys, and the statement that inserts their rows: with the label, or as rows that wait."""
    keys = rows.ledger.new_keys(number, rows.chance)
    region = _region(table, rows.chance)
    columns, values = ("region, ", f"'{region}', ") if region else ("", "")
    step = Step(
        f"INSERT INTO public.{table.name} (id, {columns}status, email, consent, {table.place})"
        f" SELECT new.id, {values}'{label or 'PE'}', new.email, new.consent, new.place"
        " FROM unnest(%s::bigint[], %s::text[], %s::boolean[], %s::text[]) AS new (id, email, consent, place)",
        [list(column) for column in zip(*(_values(rows, key) for key in keys), strict=True)],
        becomes=keys if label else (),
    )
    return keys, step


def _values(rows: Rows, key: int) -> tuple[int, str, bool, str]:
    email = rows.ledger.emails[key]
    return key, email, not email.startswith(UNWILLING), _PLACES[key % len(_PLACES)]


def _region(table: Table, chance: random.Random) -> str | None:
    return chance.choice(table.regions) if table.regions else None


def _label(table: Table, chance: random.Random) -> str:
    """Return the value, in any case if the column ignores case."""
    return chance.choice([table.label, table.label.lower()]) if table.ignores_case else table.label


def _to_value(table: Table, chance: random.Random, keys: Sequence[int], after: float = 0.0) -> Step:
    return Step(
        f"UPDATE public.{table.name} SET status = '{_label(table, chance)}', changed_at = clock_timestamp()"
        f" WHERE id = ANY (%s::bigint[]) AND status = 'PE' RETURNING id::text",
        [list(keys)], after=after, becomes=keys,
    )  # fmt: skip


def _from_value(table: Table, keys: Sequence[int]) -> Step:
    return Step(
        f"UPDATE public.{table.name} SET status = 'PE', changed_at = clock_timestamp() WHERE id = ANY (%s::bigint[])",
        [list(keys)],
    )


def insert(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    _, step = _new(table, rows, chance.randint(1, 3), _label(table, chance))
    yield Write("insert", [step])


def update(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    """Row by row, with a pause in between now and then."""
    keys, step = _new(table, rows, chance.randint(1, 4))
    yield Write("insert", [step])
    pause = chance.uniform(*_LINGER) if chance.random() < 0.2 else 0.0
    yield Write("update", [_to_value(table, chance, [key], pause) for key in keys])


def update_many(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    keys, step = _new(table, rows, chance.randint(5, 40))
    yield Write("insert", [step])
    yield Write("update of many", [_to_value(table, chance, keys)])


def copy(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    keys = rows.ledger.new_keys(chance.randint(1, 20), chance)
    region = _region(table, rows.chance)
    more = [region] if region else []
    label = _label(table, chance)
    yield Write("copy", [Step(
        f"COPY public.{table.name} (id, email, consent, {table.place}, status{', region' if region else ''}) FROM STDIN",
        rows=[[*_values(rows, key), label, *more] for key in keys], becomes=keys,
    )])  # fmt: skip


def upsert(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    keys, step = _new(table, rows, chance.randint(1, 5))
    yield Write("insert", [step])
    again = step.sql.replace("'PE'", f"'{_label(table, chance)}'") + (
        f" ON CONFLICT (id{', region' if table.regions else ''}) DO UPDATE"
        " SET status = excluded.status, changed_at = clock_timestamp()"
    )
    yield Write("upsert", [Step(again, step.parameters, becomes=keys)])


def flip(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    """Take a row out of the value and bring it back, its email sent or not."""
    if keys := rows.take():
        yield Write("flip", [_from_value(table, keys)], leaves=keys)
        yield Write("flip", [_to_value(table, chance, keys)], after=chance.choice([0, 0, 0.05, 0.5]))


def flip_at_once(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    if keys := rows.take():
        yield Write("flip at once", [_from_value(table, keys), _to_value(table, chance, keys)], leaves=keys)


def roll_back(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    keys, step = _new(table, rows, chance.randint(1, 5))
    yield Write("insert", [step])
    yield Write("roll back", [_to_value(table, chance, keys)], keep=False)


def move(table: Table, rows: Rows, chance: random.Random) -> Iterator[Write]:
    """Move a row in the value to another partition, which needs no event."""
    if table.regions and (keys := rows.take()):
        region = chance.choice(table.regions)
        update = f"UPDATE public.{table.name} SET region = '{region}' WHERE id = ANY (%s::bigint[])"
        yield Write("move", [Step(update, [keys])], moves=keys)


WRITES: dict[str, tuple[Callable[[Table, Rows, random.Random], Iterator[Write]], int]] = {
    "insert": (insert, 12),
    "update": (update, 25),
    "update of many": (update_many, 10),
    "copy": (copy, 8),
    "upsert": (upsert, 10),
    "flip": (flip, 12),
    "flip at once": (flip_at_once, 5),
    "roll back": (roll_back, 8),
    "move": (move, 8),
}
