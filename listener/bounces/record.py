"""Write a report into the outbox, and run its rule's statement `bounced`."""

from collections.abc import Mapping
from dataclasses import dataclass

from listener.address import mask
from listener.bounces.report import BounceClass, Report
from listener.config.keys import show_key
from listener.config.rules import Rule
from listener.db.errors import translate_errors
from listener.db.pool import Pool
from listener.db.queries import load
from listener.db.statement import bounced_of
from listener.errors import DatabaseUnavailable
from listener.message_id import make_message_id, read_message_id
from listener.printable import printable

_QUERIES = load("bounces")
_IN_FLIGHT = ("claimed", "transmitting")
# A policy on the outbox must refuse us, and not hide the event.
_NO_POLICIES = "SET LOCAL row_security = off"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of `record`.

    Attributes:
        changed: Whether the report changed the event.
        line: One printable line about what was done, or about why nothing was. It contains no unmasked address.
        rule: The event's rule. None if the event was not found.
        event_id: The event. None if no Message-ID of this database is in the report.
    """

    changed: bool
    line: str
    rule: str | None = None
    event_id: int | None = None


async def record(outbox: Pool, lookups: Pool, rules: Mapping[str, Rule], secret: bytes, report: Report) -> Recorded:
    """Write a report into the history of its event, and run the rule's statement `bounced` for the row.

    `outbox` is a `bounce_pool`, and `lookups` a `statement_pool` with the login of the lookups.

    A report of the same or a milder class than one before changes nothing. The event is locked meanwhile, so that the
    statement runs once for several reports at one moment. It is committed before the report. If the program ends in
    between, a second report runs it again.

    Raises:
        RuleBroken: The statement fails. The report is not recorded; send it again after the correction.
        DatabaseUnavailable: The database cannot be reached, or the event is just being sent. Send the report again.
        SchemaError: The schema is missing, or a right.
    """
    found = read_message_id(secret, report.message)
    if found is None:
        return Recorded(False, "the report is not on an email of this database; nothing changed")
    message_id, event_id = found
    with translate_errors():
        async with outbox.connection() as conn, conn.transaction():
            await conn.execute(_NO_POLICIES)
            row = await (await conn.execute(_QUERIES["lock_event"], {"id": event_id})).fetchone()
            # The id alone would not do: after a restore it may belong to another event.
            if row is None or make_message_id(secret, row[0], event_id, row[4]) != message_id:
                line = f"event {event_id} is not in the outbox any more; nothing changed"
                return Recorded(False, line, event_id=event_id)
            name, key, person, state, _, may_have_left, before = row
            if state in _IN_FLIGHT:
                raise DatabaseUnavailable(f"event {event_id} is just being sent; send the report again in a minute")
            why = _why_not(rules, name, state, may_have_left, before, report.kind)
            if why is not None:
                return Recorded(False, f"event {event_id} {why}; nothing changed", name, event_id)
            rule = rules[name]
            statement = bounced_of(name, rule)
            if statement is None:
                done = "the rule has no statement `bounced`"
            else:
                rows = await statement.run(lookups, key, {"class": report.kind.value, "person": person})
                done = f"the statement `bounced` changed {rows} row{'' if rows == 1 else 's'}"
            is_complaint = report.kind is BounceClass.complaint
            values = {
                "id": event_id,
                "word": "complained" if is_complaint else "bounced",
                "detail": mask(report.detail if is_complaint else f"{report.kind}: {report.detail}"),
                "is_first": before is None,
            }
            await conn.execute(_QUERIES["record_report"], values)
    what = report.kind if is_complaint else f"{report.kind} bounce"
    line = printable(f"event {event_id}: {what} of {name} {show_key(rule, key)} recorded; {done}")
    return Recorded(True, line, name, event_id)


def _why_not(
    rules: Mapping[str, Rule], name: str, state: str, may_have_left: bool, before: str | None, kind: BounceClass
) -> str | None:
    """Return why a report changes nothing, as the rest of a sentence about its event. None: it does."""
    if name not in rules:
        return f"belongs to rule {name}, which is not configured"
    # A message that left once in doubt can bounce, whatever became of the event afterwards.
    if state != "sent" and not may_have_left:
        return f"is {state}: as far as is known, its message was not sent"
    if before is not None and kind.gravity <= BounceClass(before).gravity:
        return f"has a report of class {before} already"
    return None
