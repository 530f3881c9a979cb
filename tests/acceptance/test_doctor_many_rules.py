"""Doctor with 200 rules, in few lines."""

import re
from pathlib import Path

import pytest

from listener.config.rules import default_rules
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.doctor import RULE

pytestmark = pytest.mark.slow
RULES = 200


def configure(folder: Path) -> None:
    lookup = default_rules()[RULE].lookup
    text = (
        f'[rules.r{i}]\ntable = "public.dateplan"\nbecomes = "V{i}"\ntemplate = "{RULE}"\nlookup = """{lookup}"""\n'
        for i in range(RULES)
    )
    (folder / "pgherald.toml").write_text("\n".join(text), encoding="utf-8")


def test_two_hundred_rules(database: Database, pgherald: Pgherald) -> None:
    configure(pgherald.folder)
    for i in range(100):
        database.add_plan("Café", f"{i}@example.org")
    pgherald("install", check=True)
    done = pgherald("doctor", timeout=300, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    for kind in ("triggers", "capture", "value", "lookup", "template", "mail"):
        assert f"ok     {kind}: 200 rules ok" in lines


def test_without_a_database_two_hundred_rules_are_one_line(pgherald: Pgherald) -> None:
    configure(pgherald.folder)
    done = pgherald("doctor", env={"PGHERALD_DATABASE_URL": "postgresql://127.0.0.1:1/x"})
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [re.sub(r"and \d+ more", "and more", line.partition(": ")[0]) for line in lines] == [
        "fault  database", "warn   server, standby, clock and more", "ok     sender", "ok     smtp"
    ]  # fmt: skip
