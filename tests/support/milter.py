"""A mail filter that answers as it is told when a message is complete.

The protocol is Sendmail's, version 6, of which Postfix's ``src/milter/milter8.c`` has the best description.
"""

import socketserver
import struct
import threading
from collections.abc import Callable
from io import BufferedIOBase
from typing import Self

# It wants the recipient and the end of the message, and nothing else: all other SMFIP_NO* are set.
_UNWANTED = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200
# To these commands there is no answer: macros, abort.
_UNANSWERED = frozenset(b"DA")


class Milter:
    """Runs while entered; `address` is for ``smtpd_milters``.

    `verdict` is asked for each complete message, by its recipient. It returns a reply, such as ``421 4.7.0 no``; None
    drops the connection, as a filter does that crashes; an empty text accepts.
    """

    def __init__(self, verdict: Callable[[str], str | None]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                _serve(self.rfile, self.wfile, verdict)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="milter", daemon=True)

    @property
    def address(self) -> str:
        return f"inet:127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    # A client that stays must not keep the test from ending.
    daemon_threads = True
    block_on_close = False


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
