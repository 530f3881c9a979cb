"""Everything that one configuration determines about delivering."""

from dataclasses import dataclass

from listener.address import Address
from listener.transport.base import Transport
from listener.worker.delivery import Delivery


@dataclass(frozen=True, slots=True)
class Runtime:
    """The rules and how to deliver for them, as one configuration says.

    A reload replaces it whole. An event keeps the runtime of its lookup to its end: the next one may not know its rule.

    `sender` is the envelope's sender. `max_rate` is in emails per second of all daemons together; None: no limit.
    """

    delivery: Delivery
    transport: Transport
    sender: Address
    max_rate: float | None
