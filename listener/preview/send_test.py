"""One real message through the configured transport, to find out whether it arrives."""

import socket
from datetime import UTC, datetime
from secrets import token_bytes
from typing import assert_never

from listener import __version__
from listener.address import Address
from listener.config.settings import Settings
from listener.errors import PgheraldError
from listener.mail.composer import Message, message_defaults
from listener.mail.message import build
from listener.mail.templates import Templates
from listener.message_id import make_message_id
from listener.recipients import RecipientPolicy
from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused
from listener.smtp.remedies import remedy_for
from listener.smtp.replies import Reply
from listener.smtp.sending import Sending
from listener.transport.base import Transport

_TEMPLATE = "send_test"


def compose_test(settings: Settings, recipient: Address, where: str) -> Message:
    """Compose a message that says it is a test. No database is needed. `where` names the transport in its text.

    It uses the shipped layout, because the operator's own may need variables that only a row has.
    """
    policy = RecipientPolicy(settings.mail.allowed_recipients, settings.mail.redirect_to)
    now = datetime.now(UTC)
    context = {
        "sender": str(settings.mail.sender.address),
        "host": socket.gethostname(),
        "where": where,
        "at": f"{now:%Y-%m-%d %H:%M:%S} UTC",
        "version": __version__,
    }
    content = Templates([_TEMPLATE]).render(_TEMPLATE, context)
    actual = policy.route(recipient)
    message_id = make_message_id(token_bytes(32), _TEMPLATE, 0, now)
    original = recipient if actual != recipient else None
    octets = build(message_defaults(settings.mail), content, actual, message_id, now, original_recipient=original)
    return Message(message_id, actual, content, octets)


async def send(sender: Address, transport: Transport, message: Message) -> Reply:
    """Send the message as the daemon would, close the transport, and return the server's reply.

    `sender` is the envelope's.

    Raises:
        PgheraldError: The message was not accepted. The text names the phase, the reply and the remedy.
    """

    async def permit() -> bool:
        return True

    try:
        outcome = await transport.send(Sending(sender, message.recipient, message.octets, permit, message.key))
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
            raise PgheraldError(f"in doubt: the message was sent, but no reply came: {detail} -> look in the mailbox")
        case NotPermitted():
            raise PgheraldError("not sent")
        case _:
            assert_never(outcome)
