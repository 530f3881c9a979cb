"""A mail sink: catch.py PORT count | catch.py PORT times [DELAY]. Pipelines; keeps nothing.

`count` prints as smtp-sink does; `times` a line for each mail: nanoseconds (CLOCK_MONOTONIC, when the dot was read) and
the recipient's local part. After DELAY seconds the mail is answered.
"""

import asyncio
import sys
import time

DELAY = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
TIMES = sys.argv[2] == "times"


class Session(asyncio.Protocol):
    total = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest, self.in_data, self.recipient = b"", False, b""
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.rest += data
        replies = []
        while True:
            if self.in_data:
                end = self.rest.find(b"\r\n.\r\n")
                if end < 0:
                    break
                self.rest, self.in_data = self.rest[end + 5 :], False
                self._accept()
                if DELAY:
                    asyncio.get_running_loop().call_later(DELAY, self.transport.write, b"250 2.0.0 Ok\r\n")
                else:
                    replies.append(b"250 2.0.0 Ok\r\n")
                continue
            line, found, self.rest = self.rest.partition(b"\r\n")
            if not found:
                self.rest = line
                break
            replies.append(self._reply(line))
        if replies and not self.transport.is_closing():
            self.transport.write(b"".join(replies))

    def _reply(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"RCPT":
            self.recipient = line.partition(b"<")[2].partition(b"@")[0]
        elif verb == b"DATA":
            self.in_data = True
            return b"354 Go on\r\n"
        elif verb == b"EHLO":
            return b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
        elif verb == b"QUIT":
            return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"

    def _accept(self) -> None:
        Session.total += 1
        if TIMES:
            sys.stdout.buffer.write(b"%d %s\n" % (time.monotonic_ns(), self.recipient))
            sys.stdout.buffer.flush()
        elif Session.total % 10 == 0:
            sys.stdout.buffer.write(b"mesg=%d\r" % Session.total)
            sys.stdout.buffer.flush()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Session, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
