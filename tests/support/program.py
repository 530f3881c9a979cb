"""Programs that Debian's packages put where a user's PATH does not look, and what a mail server's test needs of one."""

import os
import shutil
import socket

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


def find_program(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=_PATH)


def greets(port: int) -> bool:
    """Return whether an SMTP server answers at this port of loopback, be it with a refusal."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            return bool(sock.recv(1))
    except OSError:
        return False
