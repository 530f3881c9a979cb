"""A Django project of another shape, set up by the steps of docs/django.md, and every way to write a row.

Its user has a UUID and neither address nor consent: those are in tables of their own, and the orders in another schema.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

PROJECT = Path(__file__).parents[1] / "support" / "bookings"
OPERATION = 'operations = [Watch("order_paid", "Order", field="status", becomes="paid")]'
# By way: the numbers of the buyers who hear of it. All others must not.
HEAR = {
    "save": [1],
    "save-fields": [2],
    "save-other": [],
    "create": [1],
    "get-or-create": [1],
    "update-or-create": [1, 2],
    "update": [1, 2],
    "update-related": [1],
    "update-expression": [2, 3],
    "update-other": [],
    "bulk-update": [2, 3, 4],
    "bulk-create": [1, 3],
    "bulk-create-conflicts": [1],
    "atomic": [1, 2],
    "rollback": [],
    "savepoint": [1, 3],
    "reverted": [],
    "deleted": [],
    "on-commit": [1, 2],
    "asynchronous": [1, 2],
    "raw-sql": [1],
    "raw-query": [1],
    "people": ["moved", 5],
}
SKIPPED = {"reverted": 1, "row_gone": 1, "no_consent": 2, "no_recipient": 1}


class Project:
    """A copy of the project, with its command `manage.py`."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._environment = {
            **os.environ,
            "DATABASE_URL": database.url,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def watch(self) -> None:
        """Steps 3 and 4 of the page."""
        self.run("manage.py", "makemigrations", "--empty", "sales", "--name", "watch_orders")
        file = self.folder / "sales" / "migrations" / "0002_watch_orders.py"
        text = file.read_text().replace(
            "from django.db import migrations",
            "from django.db import migrations\nfrom listener.django.operations import Watch",
        )
        file.write_text(re.sub(r"operations = \[\s*\]", OPERATION, text))
        assert OPERATION in file.read_text()
        self.run("manage.py", "migrate", "--verbosity", "0")


@pytest.fixture
def project(tmp_path: Path, bare_database: Database) -> Project:
    project = Project(tmp_path / "project", bare_database)
    project.run("manage.py", "migrate", "--verbosity", "0")
    return project


def expected() -> list[str]:
    return sorted(f"{way}-{number}@example.org" for way, numbers in HEAR.items() for number in numbers)


def test_the_project_is_one_that_django_accepts(project: Project) -> None:
    project.run("-W", "error", "manage.py", "check", "--fail-level", "WARNING")
    project.run("-W", "error", "manage.py", "makemigrations", "--check", "--dry-run")


@pytest.mark.slow
def test_exactly_those_who_should_hear_of_it(
    project: Project, bare_database: Database, mail: MailServer, pgherald: Pgherald
) -> None:
    # `init` before anything is watched: it asks for the value, and finds the three tables.
    first = pgherald("init", "--out", "first.toml")
    assert "could not decide becomes: status is described by no CHECK or enum" in first.stderr
    assert first.stderr.count("could not decide") == 1
    project.watch()
    project.run("manage.py", "check", "--database", "default", "--fail-level", "WARNING")

    assert pgherald("init", check=True).stdout.startswith('pgherald.toml: rule order_paid, on sales."order"\n')
    [rule] = tomllib.loads((pgherald.folder / "pgherald.toml").read_text())["rules"].values()
    for line in ("e.email AS email", "c.wants_email AS consent", 'FROM sales."order" AS d'):
        assert line in rule["lookup"]
    subject = pgherald.folder / "templates" / "order_paid" / "subject.txt.j2"
    subject.write_text("Thank you for {{ key }}\n")
    findings = json.loads(pgherald("doctor", "--json", check=True).stdout)
    assert not [each for each in findings if each["state"] == "fault"]

    with pgherald.daemon():
        assert project.run("manage.py", "drive").split() == list(HEAR)
        settled = "SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL"
        wait_until(lambda: bare_database.value(settled) == 0)
    assert sorted(mail.recipients) == expected()
    assert {message.email["Subject"] for message in mail.messages} == {
        f"Thank you for {event['key']}" for event in bare_database.events() if event["state"] == "sent"
    }
    reasons = [event["reason"] for event in bare_database.events() if event["state"] == "skipped"]
    assert {reason: reasons.count(reason) for reason in reasons} == SKIPPED
    assert {event["state"] for event in bare_database.events()} == {"sent", "skipped"}
    assert bare_database.execute(rule["find"], {"email": "Save-1@Example.org"}) == bare_database.execute(
        "SELECT id FROM sales.\"order\" WHERE buyer_id = (SELECT id FROM people.person WHERE login = 'save-1')"
    )
