"""Write a report into the outbox, and run its rule's statement `bounced`."""

from collections.abc import Mapping
from dataclasses import dataclass

from listener.bounces.report import Report
from listener.config.rules import Rule
from listener.db.pool import Pool


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

    Raises:
        RuleBroken: The statement fails. The report is not recorded; send it again after the correction.
        DatabaseUnavailable: The database cannot be reached, or the event is just being sent. Send the report again.
        SchemaError: The schema is missing, or a right.
    """
    raise NotImplementedError
