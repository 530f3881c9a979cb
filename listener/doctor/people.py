"""The people of a row: whether a lookup returns one row for a key, or with `each` one row for a person."""

from datetime import UTC, datetime
from typing import Any

from listener.config.rules import Rule
from listener.db.pool import Pool
from listener.doctor.result import Finding, fault
from listener.outbox.event import Event, row_name
from listener.worker.decision import NotToSend
from listener.worker.lookup import Lookup
from listener.worker.lookup_result import LookupResult, TooManyRows
from listener.worker.spreading import find_people


async def read_rows(pool: Pool, query: Lookup, keys: list[str]) -> LookupResult:
    """Return the rows of these keys. If they have more rows than one answer holds, return those of the first keys."""
    while True:
        try:
            return await query.rows(pool, keys)
        except TooManyRows:
            keys = keys[: len(keys) // 2]


def rows_to_render(rule: Rule, found: LookupResult) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by key: of a rule with `each`, the row of the first person of each key."""
    if not rule.each:
        return found.rows
    return {key: found.rows.get(row_name(key, people[0]), []) for key, people in found.people.items()}


def check_people(name: str, rule: Rule, found: LookupResult) -> Finding | None:
    """Return a fault if the events of some keys would fail, because of how many rows they have; else None."""
    if rule.each:
        return _check_each(name, rule, found)
    several = {key: len(rows) for key, rows in found.rows.items() if len(rows) > 1}
    if not several:
        return None
    key, rows = next(iter(several.items()))
    return fault(
        f"returns several rows for {len(several)} of the newest keys, such as {rows} for key {key}: "
        "their events would fail as ambiguous",
        f"return one row for a key; or, if each row is for another person, set each in [rules.{name}]",
    )


def _check_each(name: str, rule: Rule, found: LookupResult) -> Finding | None:
    for key, people in found.people.items():
        event = Event(0, name, key, 0, 0, datetime.now(UTC), 0.0, 0, False, None)
        if isinstance(verdict := find_people(event, people), NotToSend):
            return fault(
                f"the event of key {key} would fail as {verdict.reason}: {verdict.detail}",
                f"correct [rules.{name}] lookup: one row a person, with an id of the person in the column {rule.each}",
            )
    return None
