"""A mail filter that answers as it is told when a message is complete.

The protocol is Sendmail's, version 6, of which Postfix's ``src/milter/milter8.c`` has the best description.
"""

import socketserver
import struct
from collections.abc import Callable
from io import BufferedIOBase

from tests.support.threaded import ThreadedServer

# It wants the recipient and the end of the message, and nothing else: all other SMFIP_NO* are set.
_UNWANTED = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200
# To these commands there is no answer: macros, abort.
_UNANSWERED = frozenset(b"DA")


class Milter(ThreadedServer):
    """Runs while entered; `address` is for ``smtpd_milters``.

    `verdict` is asked for each complete message, by its recipient. It returns a reply, such as ``421 4.7.0 no``; None
    drops the connection, as a filter does that crashes; an empty text accepts.
    """

    def __init__(self, verdict: Callable[[str], str | None]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                _serve(self.rfile, self.wfile, verdict)

        super().__init__("milter", Handler)


def _serve(read: BufferedIOBase, write: BufferedIOBase, verdict: Callable[[str], str | None]) -> None:
    recipient = ""
    while len(head := read.read(4)) == 4:
        (size,) = struct.unpack("!I", head)
        command, *_ = packet = read.read(size)
        reply = b"c"
        match chr(command):
            case "O":
                reply = b"O" + struct.pack("!III", 6, 0, _UNWANTED)
            case "R":
                recipient = packet[1:].split(b"\0")[0].decode().strip("<>")
            case "E":
                said = verdict(recipient)
                if said is None:
                    return
                reply = b"y" + said.encode() + b"\0" if said else b"a"
            case "Q":
                return
        if command not in _UNANSWERED:
            write.write(struct.pack("!I", len(reply)) + reply)
