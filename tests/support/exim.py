"""A real Exim on loopback. https://www.exim.org/exim-html-current/doc/html/spec_html/"""

import contextlib
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

# Addresses of example.org are routed, and of no other domain. Messages stay in the queue.
_CONFIGURATION = """\
exim_path = {program}
exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = relay.example.com
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/exim.pid
host_lookup =
tls_advertise_hosts =
rfc1413_query_timeout = 0s
log_selector = +smtp_connection +received_recipients
keep_environment =
queue_only
acl_smtp_rcpt = rcpt
acl_smtp_data = data
{main}
begin acl
rcpt:
{rcpt}
  accept
data:
{data}
  accept
begin routers
nowhere:
  driver = redirect
  domains = example.org
{router}
  data = :blackhole:
"""


class Exim:
    """Runs while entered. Its folder is temporary, and nothing in /etc is used.

    `main` are lines of the main section. `rcpt` and `data` are statements of the ACLs of these commands, before all else
    is accepted. `router` are options of the router of example.org.

    Exim changes to its own account, so that only root can run it.
    """

    def __init__(self, *, main: str = "", rcpt: str = "", data: str = "", router: str = "") -> None:
        program = os.environ.get("PGHERALD_TEST_EXIM") or find_program("exim4")
        assert program, "Exim is missing: .ci/run installs it, or set PGHERALD_TEST_EXIM to its program exim4"
        assert os.geteuid() == 0, "Exim runs as root alone"
        self._program = program
        self._given = {"main": main, "rcpt": rcpt, "data": data, "router": router}
        self._port = free_port()
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._port}"

    @property
    def lines(self) -> list[str]:
        """Return what it has logged."""
        return self._log("main")

    @property
    def delivered(self) -> Counter[str]:
        """Return how many messages it took for each recipient."""
        return Counter(found[1] for line in self.lines if (found := re.search(r" <= .* for (\S+)$", line)))

    @property
    def refusals(self) -> list[str]:
        """Return the log's lines about refused commands and messages."""
        return [line for line in self.lines if " rejected " in line]

    @property
    def connections(self) -> int:
        """Return the number of connections that it took, its own test of readiness among them."""
        return sum("SMTP connection from" in line and "count = " in line for line in self.lines)

    def configure(self, *, main: str = "", rcpt: str = "", data: str = "", router: str = "") -> None:
        """Replace what was given before, and let it read that. Connections that are open keep the former."""
        assert self._process is not None
        self._given = {"main": main, "rcpt": rcpt, "data": data, "router": router}
        self._write()
        starts = self._starts
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._starts > starts and self._answers())

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="exim-"))
        try:
            shutil.chown(self._folder, "Debian-exim", "Debian-exim")
            self._write()
            # -bdf: in the foreground, with a daemon's rights.
            with (self._folder / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    [self._program, "-C", self._folder / "exim.conf", "-bdf"], cwd="/",
                    stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True,
                )  # fmt: skip
            wait_until(self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # The group has the processes of its connections, too. Some have made groups of their own, and end with those.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _starts(self) -> int:
        return sum("daemon started" in line for line in self.lines)

    def _log(self, name: str) -> list[str]:
        try:
            return (self._folder / f"{name}log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _answers(self) -> bool:
        assert self._process is not None
        said = [*self._log("panic"), *(self._folder / "stderr").read_text(errors="replace").splitlines()]
        assert self._process.poll() is None, "Exim ended: " + "\n".join(said)
        return greets(self._port)

    def _write(self) -> None:
        path = self._folder / "exim.conf"
        path.write_text(
            _CONFIGURATION.format(program=self._program, folder=self._folder, port=self._port, **self._given)
        )
        # It refuses a configuration that others may write.
        path.chmod(0o644)
