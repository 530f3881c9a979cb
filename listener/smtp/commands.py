"""The bytes written for one message: the commands MAIL, RCPT and DATA, and the body as DATA carries it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from listener.address import Address
from listener.smtp.replies import Phase


@dataclass(frozen=True, slots=True)
class Command:
    """One SMTP command."""

    phase: Phase
    line: bytes
    """the command line, with its CRLF"""
    expected: int = 2
    """the reply code, or only its first digit, after which the next command may follow"""
    extensions: tuple[str, ...] = ()
    """the SMTP extensions whose parameters the line carries, in lower case"""


RESET = Command(Phase.mail, b"RSET\r\n")
# Only 354 will do, not its whole class: after it the server takes every byte for the message (RFC 5321 3.3).
_DATA = Command(Phase.data, b"DATA\r\n", expected=354)


def commands(
    sender: Address, recipient: Address, size: int, message_id: str, announced: Mapping[str, str]
) -> tuple[Command, ...]:
    """Return MAIL, RCPT and DATA for a message of `size` bytes.

    Parameters are added only for the extensions in `announced`: SIZE (RFC 1870), DSN (RFC 3461) with `message_id` as
    its ENVID, and SMTPUTF8 (RFC 6531). An `Address` contains nothing that could end a line or a path.
    """
    mail, rcpt = f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"
    of_mail: tuple[str, ...] = ()
    of_rcpt: tuple[str, ...] = ()
    if "size" in announced:
        mail += f" SIZE={size}"
        of_mail += ("size",)
    if "dsn" in announced:
        mail += f" RET=HDRS ENVID={_xtext(message_id)}"
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


def body(raw: bytes) -> bytes:
    """Return the message with its dots stuffed (RFC 5321 4.5.2) and the line with the dot that ends it.

    Raises:
        ValueError: The message contains a NUL, or a bare CR or LF. Some servers take a bare CR or LF for the end of a
            line and others do not, so one message could pass as two (CVE-2023-51764, -51765, -51766).
    """
    lines = raw.count(b"\r\n")
    if not raw.count(b"\n") == raw.count(b"\r") == lines or not raw.endswith(b"\r\n"):
        raise ValueError("a line of the message does not end with CRLF")
    if b"\0" in raw:
        raise ValueError("the message contains a NUL")
    if b"\n." in raw:
        raw = raw.replace(b"\n.", b"\n..")
    return (b"." if raw.startswith(b".") else b"") + raw + b".\r\n"


def _xtext(text: str) -> str:
    """Return the text as xtext (RFC 3461 4): characters that ENVID must not contain are written in hexadecimal."""
    return re.sub(r"[^!-*,-<>-~]", lambda char: "".join(f"+{octet:02X}" for octet in char[0].encode()), text)
