"""The decision about an event: to send it, or a reason not to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from listener.address import Address
from listener.outbox.event import Event, Settlement


@dataclass(frozen=True, slots=True)
class ToSend:
    """An event that is to be sent.

    Attributes:
        context: The lookup's row, for the template.
        octets: Size of the row in memory until it is sent.
    """

    event: Event
    recipient: Address
    context: Mapping[str, Any]
    octets: int = 0


@dataclass(frozen=True, slots=True)
class ToSpread:
    """An event of a rule with `each` that stands for all people of its row.

    Attributes:
        people: The people, in the lookup's order. The event becomes that of the first one.
        first: The decision about the event once it is that of the first one.
    """

    event: Event
    people: Sequence[str]
    first: "ToSend | Settlement"


@dataclass(frozen=True, slots=True)
class NotToSend:
    """An event that is not to be sent. `failed`: because its data is wrong, and not for a good reason."""

    event: Event
    reason: str
    detail: str | None = None
    failed: bool = False
