"""The server that Postfix asks about logins: one account, by the protocol of Dovecot's authentication service.

https://doc.dovecot.org/2.3/developer_manual/design/auth_protocol/
"""

import base64
import socketserver
import threading
from typing import Self

_HELLO = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0123456789abcdef0123456789abcdef\nDONE\n"


class SaslServer:
    """Runs while entered; `settings` are Postfix's that lead to it."""

    def __init__(self, user: str, password: str) -> None:
        right = f"\0{user}\0{password}"

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(_HELLO.encode())
                for line in self.rfile:
                    command, *words = line.decode().rstrip("\n").split("\t")
                    if command == "AUTH":
                        given = next((word[5:] for word in words if word.startswith("resp=")), "")
                        answer = "OK" if base64.b64decode(given).decode() == right else "FAIL"
                        self.wfile.write(f"{answer}\t{words[0]}\tuser={user}\n".encode())

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sasl", daemon=True)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{self._server.server_address[1]}",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    # Postfix keeps its connection.
    daemon_threads = True
    block_on_close = False
