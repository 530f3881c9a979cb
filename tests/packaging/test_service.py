"""The unit under a real systemd: `.ci/docker` builds the image and names it in PGHERALD_TEST_SYSTEMD_IMAGE."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.database import Database, free_port
from tests.support.engine import docker
from tests.support.mail import MailServer

IMAGE = os.environ.get("PGHERALD_TEST_SYSTEMD_IMAGE", "")
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "pgherald.service"
# Options that systemd needs for the sandboxes of its services. An engine may have no network but the host's.
_MACHINE = (
    "--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined", "--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
    "--tmpfs=/run", "--tmpfs=/tmp", "--network=host",
)  # fmt: skip
_CONFIGURATION = """
[mail]
from = "Date Plans <{sender}>"
[http]
listen = "127.0.0.1:{port}"
"""

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs an image with systemd; .ci/docker makes one and runs these")


@dataclass
class Service:
    """pgherald.service on a machine with the `configuration` and the `overrides` of the unit in these directories."""

    machine: str
    configuration: Path
    overrides: Path
    port: int

    def configure(self, sender: str) -> None:
        self.write("pgherald.toml", _CONFIGURATION.format(sender=sender, port=self.port))

    def write(self, name: str, text: str) -> None:
        file = self.configuration / name
        file.write_text(text)
        file.chmod(0o644 if name.endswith(".toml") else 0o600)

    def override(self, text: str) -> None:
        (self.overrides / "test.conf").write_text("[Service]\n" + text)
        docker("exec", self.machine, "systemctl", "daemon-reload")

    def systemctl(self, verb: str, check: bool = True) -> str:
        command = f"systemctl {verb} pgherald || {{ journalctl --unit=pgherald --lines=20 --no-pager; exit 1; }}"
        return docker("exec", self.machine, "sh", "-c", command, check=check)

    def show(self, name: str) -> str:
        return docker("exec", self.machine, "systemctl", "show", "--value", f"--property={name}", "pgherald").strip()

    def kill(self, signal: str) -> None:
        docker("exec", self.machine, "systemctl", "kill", f"--signal={signal}", "pgherald")

    def wait_restarted(self) -> None:
        wait_until(lambda: (self.show("NRestarts"), self.show("ActiveState")) == ("1", "active"), timeout=30)


def _state(machine: str) -> str:
    return docker("exec", machine, "systemctl", "is-system-running", check=False).strip()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    configuration, overrides = tmp_path_factory.mktemp("etc"), tmp_path_factory.mktemp("overrides")
    configuration.chmod(0o755)
    volumes = [
        f"--volume={UNIT}:/etc/systemd/system/pgherald.service:ro",
        f"--volume={overrides}:/etc/systemd/system/pgherald.service.d:ro",
        f"--volume={configuration}:/etc/pgherald",
    ]
    number = docker("run", "--detach", *_MACHINE, *volumes, IMAGE).strip()
    try:
        try:
            wait_until(lambda: _state(number) in ("running", "degraded"), timeout=30)
        except AssertionError:
            pytest.skip(
                f"systemd does not start in this engine's containers: {_state(number)} {docker('logs', number)}"
            )
        yield number, configuration, overrides
    finally:
        docker("rm", "--force", number)


@pytest.fixture
def service(machine: tuple[str, Path, Path], database: Database, mail: MailServer) -> Iterator[Service]:
    service = Service(*machine, port=free_port())
    service.configure("no-reply@example.org")
    service.write("database_url", database.url)
    service.write("smtp_url", mail.url)
    service.override("")
    try:
        yield service
    finally:
        service.systemctl("stop", check=False)
        service.systemctl("reset-failed", check=False)


def test_starts_when_ready_delivers_reloads_and_stops(service: Service, database: Database, mail: MailServer) -> None:
    service.systemctl("start")
    assert service.show("ActiveState") == "active"
    assert "listening" in service.show("StatusText")
    database.verify(database.add_plan("Lisbon", "ana@example.org"))
    [message] = mail.wait_for(1)
    assert message.sender == "no-reply@example.org"

    environment = docker("exec", service.machine, "cat", f"/proc/{service.show('MainPID')}/environ")
    assert "PGHERALD_DATABASE_URL_FILE=" in environment
    assert "://" not in environment

    service.configure("plans@example.org")
    service.systemctl("reload")
    wait_until(lambda: "listening" in service.show("StatusText"))
    database.verify(database.add_plan("Porto", "rui@example.org"))
    assert mail.wait_for(2)[1].sender == "plans@example.org"

    service.systemctl("stop")
    assert [service.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]


def test_waits_for_the_database_and_says_so(service: Service, database: Database) -> None:
    service.write("database_url", f"postgresql://127.0.0.1:{free_port()}/nobody")
    service.systemctl("start --no-block")
    wait_until(lambda: "waiting for the database" in service.show("StatusText"), timeout=20)
    assert service.show("ActiveState") == "activating"
    service.systemctl("stop")
    assert service.show("Result") == "success"


def test_is_restarted_after_kill_9(service: Service, database: Database, mail: MailServer) -> None:
    service.systemctl("start")
    service.kill("KILL")
    service.wait_restarted()
    database.verify(database.add_plan("Lisbon", "ana@example.org"))
    mail.wait_for(1)


def test_is_ended_by_the_watchdog_when_it_stands_still(service: Service, database: Database, mail: MailServer) -> None:
    service.override("WatchdogSec=4s\n")
    service.systemctl("start")
    service.kill("STOP")
    service.wait_restarted()
    log = docker("exec", service.machine, "journalctl", "--unit=pgherald", "--output=cat", "--no-pager")
    assert "Watchdog timeout" in log
    database.verify(database.add_plan("Lisbon", "ana@example.org"))
    mail.wait_for(1)


def test_is_not_restarted_after_a_usage_error(service: Service) -> None:
    service.override("ExecStart=\nExecStart=/opt/pgherald/bin/pgherald run --nonsense\n")
    service.systemctl("start", check=False)
    wait_until(lambda: service.show("ActiveState") == "failed")
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("2", "0")


def test_is_not_restarted_with_an_invalid_configuration_and_the_journal_has_it_as_an_error(service: Service) -> None:
    service.write("pgherald.toml", "[smtp]\nconections = 4\n")
    service.systemctl("start", check=False)
    wait_until(lambda: service.show("ActiveState") == "failed")
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("78", "0")
    errors = docker(
        "exec", service.machine, "journalctl", "--unit=pgherald", "--priority=err", "--output=cat", "--no-pager"
    )
    assert "[smtp] conections: unknown key" in errors
