"""The decision about an event: to send it, or a reason not to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from listener.address import Address
from listener.outbox.event import Event


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
class NotToSend:
    """An event that is not to be sent. `failed`: because its data is wrong, and not for a good reason."""

    event: Event
    reason: str
    detail: str | None = None
    failed: bool = False
