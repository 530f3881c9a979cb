"""The rows that a worker writes, as JSON.

With an array for each column, psycopg would inspect every element in Python: three times as slow.
"""

import json
from collections.abc import Iterable, Sequence

from listener.outbox.event import Event, OutgoingMessage, Settlement

Row = dict[str, object]


def as_json(rows: Iterable[Row]) -> str:
    r"""Return the rows as one parameter. Without \u escapes: a database in SQL_ASCII refuses to convert those."""
    return json.dumps(list(rows), ensure_ascii=False)


def settled(settlement: Settlement, *, hold: bool, detail: str | None) -> Row:
    """Return the row of an outcome. `hold` is its rule's policy, and `detail` the text in the database's encoding."""
    event = settlement.event
    return {
        "id": event.id,
        "claim": event.claim,
        "state": settlement.state,
        "reason": settlement.reason,
        "uses_attempt": int(settlement.uses_attempt),
        "delay": settlement.delay,
        "hold": hold,
        "history_entry": settlement.history_entry,
        "detail": detail,
    }


def marked(mark: OutgoingMessage, *, hold: bool) -> Row:
    """Return the row of a mark, without its message. `hold` is the policy of its rule."""
    return {"id": mark.event.id, "claim": mark.event.claim, "recipient": str(mark.recipient), "hold": hold}


def spread(event: Event, people: Sequence[str]) -> Row:
    """Return the row of an event that is spread to these people."""
    return {"id": event.id, "claim": event.claim, "people": list(people)}
