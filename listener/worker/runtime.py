"""Everything that one configuration determines about delivering."""

from collections.abc import Mapping
from dataclasses import dataclass

from listener.address import Address
from listener.transport.base import Transport
from listener.worker.delivery import Delivery


@dataclass(frozen=True, slots=True)
class Runtime:
    """The rules and how to deliver for them, as one configuration says.

    A reload replaces it whole. An event keeps the runtime of its lookup to its end: the next one may not know its rule.

    `senders` are the envelopes' senders, by rule. `max_rate` is in emails per second of all daemons together; None: no limit.
    """

    delivery: Delivery
    transport: Transport
    senders: Mapping[str, Address]
    max_rate: float | None
