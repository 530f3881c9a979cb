"""The server that Postfix asks about logins: one account, by the protocol of Dovecot's authentication service.

https://doc.dovecot.org/2.3/developer_manual/design/auth_protocol/
"""

import base64
import socketserver

from tests.support.threaded import ThreadedServer

_HELLO = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0123456789abcdef0123456789abcdef\nDONE\n"


class SaslServer(ThreadedServer):
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

        super().__init__("sasl", Handler)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": self.address,
        }
