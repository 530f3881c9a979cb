"""The protocol of a transport: send one message, and return what became of it."""

from typing import Protocol

from listener.address import Address
from listener.smtp.outcome import MayBegin, Permission, SendOutcome, always

# Larger than any email that people read, and small enough that a worker can hold several in memory.
MAX_MESSAGE_BYTES = 1_000_000


class Transport(Protocol):
    """Sends messages. The worker and `pgherald send-test` know no more about the way of a message than this."""

    async def send(
        self,
        sender: Address,
        recipient: Address,
        raw: bytes,
        permission: Permission,
        message_id: str,
        may_begin: MayBegin = always,
        *,
        is_repeat: bool = False,
    ) -> SendOutcome:
        """Send one message once, and return the outcome.

        `sender` and `recipient` are the envelope. `raw` is the whole message (RFC 5322), ended by CRLF. Nothing of it
        is written before `permission` returns True. `message_id` identifies the message, also when it is sent again.
        With `is_repeat`, an earlier sending of the message ended in doubt.
        `may_begin` is asked when the transport is ready: opening a connection, or waiting for a free one, may take long.
        """

    def abort(self) -> None:
        """End at once what is in flight. The outcomes of these messages are not sent, or in doubt."""

    async def close(self) -> None:
        """Close what is open. Call it when nothing is in flight."""
