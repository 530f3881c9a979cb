"""The protocol of a transport: send one message, and return what became of it."""

from typing import Protocol

from listener.smtp.outcome import SendOutcome
from listener.smtp.sending import Sending

# Larger than any email that people read, and small enough that a worker can hold several in memory.
MAX_MESSAGE_BYTES = 1_000_000


class Transport(Protocol):
    """Sends messages. The worker and `pgherald send-test` know no more about the way of a message than this."""

    async def send(self, sending: Sending) -> SendOutcome:
        """Send one message once, and return the outcome.

        Nothing of the message is written before its `permission` returns True. `may_begin` is asked when the transport is
        ready: opening a connection, or waiting for a free one, may take long.
        """

    def abort(self) -> None:
        """End at once what is in flight. The outcomes of these messages are not sent, or in doubt."""

    async def close(self) -> None:
        """Close what is open. Call it when nothing is in flight."""
