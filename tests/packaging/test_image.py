"""The container image, built and run: `.ci/docker` makes it, and names it in PGHERALD_TEST_DAEMON_IMAGE."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import wait_until
from tests.support.database import Database, free_port
from tests.support.engine import docker
from tests.support.mail import MailServer

IMAGE = os.environ.get("PGHERALD_TEST_DAEMON_IMAGE", "")
GRACE = 30.0
# As deploy/kubernetes runs it.
_LOCKED_UP = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")

pytestmark = pytest.mark.skipif(not IMAGE, reason="needs an image; .ci/docker makes one and runs these")


@contextmanager
def container(settings: Mapping[str, str], *arguments: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """Its id. In the host's network, since an engine may have no other."""
    given = [f"--env={name}={value}" for name, value in settings.items()]
    number = docker("run", "--detach", "--network=host", *_LOCKED_UP, *given, *arguments, IMAGE, *command).strip()
    try:
        yield number
    finally:
        docker("rm", "--force", number)


def state(number: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", "--format={{json .State}}", number))
    return found


@pytest.fixture
def settings(database: Database, mail: MailServer) -> dict[str, str]:
    return {
        "PGHERALD_DATABASE_URL": database.url,
        "PGHERALD_SMTP_URL": mail.url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
        "PGHERALD_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
    }


def test_delivers_is_healthy_and_stops_within_its_grace(
    settings: dict[str, str], database: Database, mail: MailServer
) -> None:
    before = database.add_plan("Lisbon", "ana@example.org")
    database.verify(before)
    with container(settings) as number:
        mail.wait_for(1, timeout=30)
        database.verify(database.add_plan("Porto", "rui@example.org"))
        mail.wait_for(2)
        assert mail.recipients == ["ana@example.org", "rui@example.org"]
        wait_until(lambda: state(number)["Health"]["Status"] == "healthy", timeout=40)
        began = time.monotonic()
        docker("stop", f"--time={GRACE + 5:.0f}", number)
        assert time.monotonic() - began < GRACE
        log = docker("logs", number)
        assert state(number)["ExitCode"] == 0, log
    assert [event["state"] for event in database.events()] == ["sent", "sent"]
    events = [json.loads(line) for line in log.splitlines()]
    assert events[-1]["event"] == "stopped"


def test_is_not_healthy_while_its_loop_stands_still(settings: dict[str, str]) -> None:
    with container(settings, "--health-interval=1s", "--health-timeout=1s", "--health-retries=1") as number:
        wait_until(lambda: state(number)["Health"]["Status"] == "healthy", timeout=40)
        # The process goes on being there. `docker pause` would stop the check, too.
        docker("kill", "--signal=STOP", number)
        wait_until(lambda: state(number)["Health"]["Status"] == "unhealthy", timeout=40)


def test_installs_with_a_secret_from_a_file(bare_database: Database, mail: MailServer, tmp_path: Path) -> None:
    bare_database.execute("CREATE TABLE public.dateplan (id bigint PRIMARY KEY, status text)")
    secret = tmp_path / "database_url"
    secret.write_text(bare_database.url + "\n")
    secret.chmod(0o444)
    mounted = f"--volume={secret}:/run/secrets/database_url:ro"
    with container(
        {"PGHERALD_DATABASE_URL_FILE": "/run/secrets/database_url"}, mounted, command=("install",)
    ) as number:
        assert docker("wait", number).strip() == "0", docker("logs", number)
    assert bare_database.value("SELECT count(*) FROM pgherald.rule") == 1


def test_is_lean_and_nobody() -> None:
    configured = json.loads(docker("inspect", "--format={{json .Config}}", IMAGE))
    assert (configured["User"], configured["StopSignal"]) == ("10001", "SIGTERM")
    assert configured["Healthcheck"]["Test"][0] == "CMD"
    has = docker(
        "run", "--rm", "--network=none", "--entrypoint=sh", IMAGE,
        "-c", "id -u; for name in cc gcc c++ ld strip pip apt-get perl; do command -v $name; done", check=False,
    )  # fmt: skip
    assert has.split() == ["10001"]
    # As `docker image ls` shows it.
    assert int(docker("image", "inspect", "--format={{.Size}}", IMAGE)) < 190_000_000


def test_stripped_libraries_load() -> None:
    # uvloop and aiohttp fall back to slower code without a word.
    load = """import ctypes, pathlib
found = list(pathlib.Path("/opt/pgherald").rglob("*.so*"))
for file in found: ctypes.CDLL(str(file))
print(len(found))"""
    assert int(docker("run", "--rm", "--network=none", "--entrypoint=python3", IMAGE, "-c", load)) > 20
