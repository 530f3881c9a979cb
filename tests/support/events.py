"""Claimed events as a claim returns them, for tests without a database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from listener.address import parse_address
from listener.config.rules import DEFAULT_NAME
from listener.outbox.event import Event

JANE = parse_address("jane@example.org")
CAPTURED_AT = datetime(2026, 11, 22, 9, 5, tzinfo=UTC)


def event(number: int = 1, **changes: Any) -> Event:
    """Return event `number` of row `number` under claim 40, with `changes` to its attributes."""
    first = Event(number, DEFAULT_NAME, str(number), 0, 0, CAPTURED_AT, 0.0, 40, False, None)
    return replace(first, **changes)
