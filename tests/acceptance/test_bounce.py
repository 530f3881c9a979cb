"""A real Postfix returns an email that it had accepted, and pipes the report into `pgherald bounce`."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import listener
from listener.config.rules import DEFAULT_NAME
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.configuration import configuration
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.postfix import Postfix
from tests.support.smtpd import answer

PAGE = (Path(__file__).parents[2] / "docs" / "bounces.md").read_text(encoding="utf-8")
# As the page shows it.
STATEMENT = PAGE.partition('bounced = """')[2].partition('"""')[0]


def explained(pgherald: Pgherald) -> dict[str, Any]:
    [event] = json.loads(pgherald("explain", DEFAULT_NAME, "1", "--json", check=True).stdout)["events"]
    assert isinstance(event, dict)
    return event


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an account without rights can read."""
    path = Path(tempfile.mkdtemp(prefix="bounce-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def interpreter() -> str:
    """A Python of this version that an account without rights can run."""
    for program in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with suppress(OSError):
            subprocess.run([program, "-V"], user="nobody", group="nogroup", extra_groups=[], check=True)
            return program
    pytest.skip("needs a Python that the account nobody can run")


@pytest.mark.slow
def test_postfix_returns_an_email_that_it_had_accepted(
    database: Database, pgherald: Pgherald, mail: MailServer, folder: Path
) -> None:
    """The recipe of the page, with the account nobody."""
    mail.script("rcpt", answer("550 5.1.1 <gone@example.org>: User unknown"), recipient="gone@example.org")
    text = configuration(
        folder, f'[database]\nurl = "{database.url}"\n[mail]\nfrom = "no-reply@example.com"', bounced=STATEMENT
    )
    shutil.copy(text, pgherald.folder)
    [service] = re.findall(r"^ +(pgherald  unix .*\n) +(user=herald .*)\n", PAGE, re.MULTILINE)
    path = (
        f"{Path(listener.__file__).parents[1]}:{':'.join(each for each in sys.path if each.endswith('site-packages'))}"
    )
    program = f"/usr/bin/env PYTHONPATH={path} {interpreter()} -m listener --config {text}"
    recipe = " ".join(service).replace("user=herald", "user=nobody")
    recipe = recipe.replace("/opt/pgherald/bin/pgherald --config /etc/pgherald/pgherald.toml", program)
    assert program in recipe
    [maps] = re.findall(r"^ +transport_maps = (.*)$", PAGE, re.MULTILINE)
    settings = {
        "transport_maps": maps,
        "default_transport": f"smtp:[127.0.0.1]:{mail.smtpd.port}",
        "disable_dns_lookups": "yes",
    }
    env = {"PGHERALD_MAIL_ENVELOPE_FROM": "bounces@bounces.example.com"}
    services = f"smtp unix - - n - - smtp\npickup unix n - n 60 1 pickup\n{recipe}\n"
    with (
        Postfix(services, **settings, defer_transports="pgherald") as postfix,
        pgherald.daemon(env={**env, "PGHERALD_SMTP_URL": postfix.url}) as daemon,
    ):
        plan = database.add_plan("Café", "gone@example.org")
        database.verify(plan)
        daemon.wait_event("event_sent")
        # The report waits in the queue.
        wait_until(lambda: any("deferred transport" in line for line in postfix.lines))
        before = explained(pgherald)
        assert (before["state"], before["reason"]) == ("sent", None)
        postfix.configure(**settings)
        postfix.flush()
        wait_until(lambda: explained(pgherald)["reason"] == "bounced" or _assert_no_failure(postfix))
        *_, last = explained(pgherald)["history"]
        assert (last["what"], last["detail"]) == ("bounced", "hard: 550 5.1.1 <g***@example.org>: User unknown")
        wait_until(lambda: any("relay=pgherald" in line and "status=sent" in line for line in postfix.lines))
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (plan,))
        database.verify(plan)
        skipped = daemon.wait_event("event_skipped")
        assert skipped["reason"] == "no_consent"


def _assert_no_failure(postfix: Postfix) -> bool:
    assert not [line for line in postfix.lines if "relay=pgherald" in line and "status=bounced" in line]
    return False
