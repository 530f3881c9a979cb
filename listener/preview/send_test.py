"""One real message through the configured transport, to see whether it gets there."""

import socket
from datetime import UTC, datetime
from secrets import token_bytes
from typing import assert_never

from listener import __version__
from listener.address import Address
from listener.config.settings import Settings
from listener.errors import PgheraldError
from listener.mail.composer import Message
from listener.mail.message import MessageDefaults, build, message_id
from listener.mail.templates import Templates
from listener.recipients import RecipientPolicy
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused
from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Reply
from listener.transport.base import Transport

_TEMPLATE = "send_test"


def note(settings: Settings, recipient: Address, where: str) -> Message:
    """A message that says what it is, and needs no database.

    The shipped layout, whatever the operator's own may be: that one may take what only a row has.
    """
    guard = RecipientPolicy(settings.mail.allowed_recipients, settings.mail.redirect_to)
    now = datetime.now(UTC)
    context = {
        "sender": str(settings.mail.sender.address),
        "host": socket.gethostname(),
        "where": where,
        "at": f"{now:%Y-%m-%d %H:%M:%S} UTC",
        "version": __version__,
    }
    content = Templates([_TEMPLATE]).render(_TEMPLATE, context)
    actual = guard.route(recipient)
    instead_of = recipient if actual != recipient else None
    key = message_id(token_bytes(32), _TEMPLATE, 0, now)
    defaults = MessageDefaults(sender=settings.mail.sender, idempotency_header=settings.mail.idempotency_header)
    return Message(key, actual, content, build(defaults, content, actual, key, now, original_recipient=instead_of))


async def send(settings: Settings, transport: Transport, message: Message) -> Reply:
    """Hand it over, as the daemon would. Gives the server's reply.

    Raises:
        PgheraldError: it was not accepted; says where that failed, and the remedy.
    """

    async def permission() -> bool:
        return True

    try:
        outcome = await transport.send(
            settings.mail.return_path, message.recipient, message.octets, permission, message.key
        )
    finally:
        await transport.close()
    match outcome:
        case Accepted(reply):
            return reply
        case Refused(phase, reply, verdict):
            raise PgheraldError(f"not sent: {phase.upper()}: {reply} -> {remedy_for(phase, verdict)}")
        case NotSent(phase, detail, verdict):
            raise PgheraldError(f"not sent: {phase.upper()}: {detail} -> {remedy_for(phase, verdict)}")
        case InDoubt(detail):
            raise PgheraldError(f"in doubt: the message left, and no reply came: {detail} -> look in the mailbox")
        case NotPermitted():
            raise PgheraldError("not sent")
        case _:
            assert_never(outcome)
