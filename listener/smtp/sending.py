"""One message for one recipient, with the questions that are asked on its way."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from listener.address import Address

Permission = Callable[[], Awaitable[bool]]
"""Called once, after the server's 354 and before the first byte of the body. False stops the sending."""
MayBegin = Callable[[], bool]
"""Called just before each MAIL, however long the server took up to then. False keeps MAIL from being written."""


def always() -> bool:
    """Return True: a message that may begin at any time."""
    return True


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that is to be sent.

    Attributes:
        sender: The envelope's sender, as `recipient` is its recipient.
        raw: The whole message (RFC 5322) with CRLF lines, not dot-stuffed.
        message_id: Identifies the message, also when it is sent again.
        is_repeat: An earlier sending of the message ended in doubt.
    """

    sender: Address
    recipient: Address
    raw: bytes
    permission: Permission
    message_id: str
    may_begin: MayBegin = always
    is_repeat: bool = False
