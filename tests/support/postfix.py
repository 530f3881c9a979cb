"""A real Postfix on loopback. https://www.postfix.org/postconf.5.html"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Self

from tests.support import wait_until
from tests.support.database import free_port
from tests.support.program import find_program, greets

# Everything that is accepted is delivered to nowhere. Settings that are not named here have Postfix's defaults.
_SETTINGS = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "myhostname": "relay.example.com",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    # By default it tells the postmaster of each error of its own, which would count as a message.
    "notify_classes": "",
    "alias_database": "",
    "default_transport": "discard:",
    "local_transport": "discard:",
    "relay_transport": "discard:",
    "virtual_transport": "discard:",
    "smtpd_peername_lookup": "no",
}
_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """Runs while entered, with `settings` on top of `_SETTINGS`. Its folder is temporary, and nothing in /etc is used.

    Postfix starts its programs under other accounts, so that only root can run it. `services` are lines of master.cf that
    come after `_SERVICES`.
    """

    def __init__(self, services: str = "", **settings: str) -> None:
        program = find_program("postfix")
        assert program, "Postfix is missing: apt-get install postfix (it need not run as a service)"
        assert os.geteuid() == 0, "Postfix runs as root alone"
        self._program = program
        self._services = services
        self._given = settings
        self._port = free_port()
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._port}"

    @property
    def lines(self) -> list[str]:
        """Return what it has logged."""
        try:
            return (self._folder / "maillog").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    @property
    def delivered(self) -> Counter[str]:
        """Return how many messages it took for each recipient. The discard service has delivered them."""
        return Counter(
            found[1] for line in self.lines if (found := re.search(r"/discard\[.*: to=<([^>]*)>.*status=sent", line))
        )

    @property
    def refusals(self) -> list[str]:
        """Return the replies with which it refused, in order: ``RCPT: 550 5.1.1 <…>: …``."""
        found = (re.search(r"(?:reject|milter-reject): (\S+) from [^:]*: (\d{3} [^;]*)", line) for line in self.lines)
        return [f"{match[1]}: {match[2]}" for match in found if match]

    @property
    def refusals_by_connection(self) -> Counter[str]:
        """Return the number of refusals on each connection."""
        current: dict[str, int] = {}
        found: Counter[str] = Counter()
        for line in self.lines:
            if match := re.search(r"/smtpd\[(\d+)\]: (connect from|NOQUEUE: reject)", line):
                process, what = match[1], match[2]
                current[process] = current.get(process, 0) + (what == "connect from")
                found[f"{process}/{current[process]}"] += what != "connect from"
        return found

    @property
    def connections(self) -> int:
        """Return the number of connections that were made to it, its own test of readiness among them."""
        return sum(bool(re.search(r"/smtpd\[\d+\]: connect from ", line)) for line in self.lines)

    def configure(self, **settings: str) -> None:
        """Replace the settings given before, and let it read them: ``postfix reload``.

        Connections that are open keep the former ones.
        """
        self._given = settings
        self._write()
        self._control("reload")

    def flush(self) -> None:
        """Try to deliver now what waits in the queue."""
        self._control("flush")

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postfix-"))
        try:
            # Its accounts must be able to enter it.
            self._folder.chmod(0o755)
            for name in ("queue", "data"):
                (self._folder / name).mkdir()
            shutil.chown(self._folder / "data", "postfix")
            self._write()
            # It makes the queue's folders.
            self._control("check")
            # As the leader of a process group, it ends its programs with itself.
            self._process = subprocess.Popen(
                [self._master(), "-c", self._folder, "-s"], cwd="/", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            wait_until(self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, command: str) -> None:
        done = subprocess.run(
            [self._program, "-c", self._folder, command],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _master(self) -> Path:
        """Postfix's own start-fg runs this program in a process below a shell, which does not end it."""
        done = subprocess.run(
            [Path(self._program).with_name("postconf"), "-c", self._folder, "-h", "daemon_directory"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return Path(done.stdout.strip()) / "master"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Postfix ended: " + "\n".join(self.lines)
        return greets(self._port)

    def _write(self) -> None:
        folder = self._folder
        settings = {
            **_SETTINGS,
            "queue_directory": folder / "queue",
            "data_directory": folder / "data",
            "maillog_file": folder / "maillog",
            "maillog_file_prefixes": folder,
            **self._given,
        }
        (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        (folder / "master.cf").write_text(_SERVICES.format(port=self._port) + self._services)
