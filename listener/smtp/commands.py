"""What is written to the server for one message: the commands that go before it, and the body as DATA carries it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from listener.address import Address
from listener.smtp.replies import Phase


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `welcome`: the reply, or its class, that lets the next one follow.

    `extensions`: those whose parameters it carries.
    """

    phase: Phase
    line: bytes
    welcome: int = 2
    extensions: tuple[str, ...] = ()


RESET = Command(Phase.mail, b"RSET\r\n")
# No other of its class: after it, everything is taken for the message.
_DATA = Command(Phase.data, b"DATA\r\n", welcome=354)


def commands(
    sender: Address, recipient: Address, size: int, key: str, announced: Mapping[str, str]
) -> tuple[Command, ...]:
    """Build MAIL, RCPT and DATA. An `Address` holds nothing that could end a line or a path.

    Only what the server announced is asked of it: SIZE (RFC 1870), DSN (RFC 3461), SMTPUTF8 (RFC 6531).
    """
    mail, rcpt = f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"
    of_mail: tuple[str, ...] = ()
    of_rcpt: tuple[str, ...] = ()
    if "size" in announced:
        mail += f" SIZE={size}"
        of_mail += ("size",)
    if "dsn" in announced:
        mail += f" RET=HDRS ENVID={_xtext(key)}"
        rcpt += " NOTIFY=FAILURE"
        of_mail += ("dsn",)
        of_rcpt += ("dsn",)
    if sender.needs_smtputf8 or recipient.needs_smtputf8:
        mail += " SMTPUTF8"
        of_mail += ("smtputf8",)
    return (
        Command(Phase.mail, f"{mail}\r\n".encode(), extensions=of_mail),
        Command(Phase.rcpt, f"{rcpt}\r\n".encode(), extensions=of_rcpt),
        _DATA,
    )


def body(message: bytes) -> bytes:
    """The message with its dots stuffed (RFC 5321 4.5.2) and the line that ends it.

    Raises `ValueError` on a bare CR or LF: it ends a line for some servers and not for others, so that one message
    could pass as two (CVE-2023-51764, -51765, -51766).
    """
    lines = message.count(b"\r\n")
    if not message.count(b"\n") == message.count(b"\r") == lines or not message.endswith(b"\r\n"):
        raise ValueError("a line of the message does not end with CRLF")
    if b"\0" in message:
        raise ValueError("the message holds a NUL")
    if b"\n." in message:
        message = message.replace(b"\n.", b"\n..")
    return (b"." if message.startswith(b".") else b"") + message + b".\r\n"


def _xtext(key: str) -> str:
    """RFC 3461 4: what ENVID may hold, the rest in hexadecimal."""
    return re.sub(r"[^!-*,-<>-~]", lambda char: "".join(f"+{octet:02X}" for octet in char[0].encode()), key)
