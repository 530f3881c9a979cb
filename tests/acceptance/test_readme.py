"""The README's commands in a database of one's own, in their order and as they stand there."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_init import DJANGO, STORY_ROWS, prepare
from tests.fixtures.programs import Programs
from tests.support import repeats, wait_until
from tests.support.command import PROGRAM, Pgherald
from tests.support.database import STORY, Database
from tests.support.mail import MailServer

SECTION = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split("## In your own database")[1]
SECTION = SECTION.partition("\n## ")[0]
# The commands before the first prompt, and then each command that the README shows with its output.
SETUP = re.findall(r"^    ((?!\$ )\S.*)$", SECTION.partition("    $ ")[0], re.MULTILINE)
DIALOGUE = re.findall(r"^    \$ (.*)\n((?:    (?!\$ ).*\n)*)", SECTION, re.MULTILINE)


def bash(command: str, pgherald: Pgherald, programs: Programs) -> subprocess.CompletedProcess[str]:
    path = f"{PROGRAM.parent}:{programs.psql_program.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], env={**pgherald._environment({}), "PATH": path}, cwd=pgherald.folder,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def plain(text: str) -> list[str]:
    """Without what differs from run to run: times, numbers, keys, the worker's name and the mail server's words."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d(\.\d{3})?)?", "(time)", text)
    text = re.sub(r"(event|transaction) \d+", r"\1 (number)", text)
    text = re.sub(r"<[a-z2-7]{26}@", "<(key)@", text)
    text = re.sub(r"(claimed +)\S+", r"\1(worker)", text)
    text = re.sub(r"(sent +)250 .*", r"\g<1>250 (text)", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_init_comes_before_install_and_run() -> None:
    assert [line.split(" #")[0].strip() for line in SETUP if line.startswith("pgherald")] == [
        "pgherald init", "pgherald install", "pgherald run",
    ]  # fmt: skip
    assert len(DIALOGUE) > 3


@pytest.mark.parametrize(
    ("tables", "table"),
    [repeats([STORY, STORY_ROWS], "dateplan"), ([DJANGO], "dates_dateplan")],
    ids=["the shipped names", "other names"],
)
def test_the_commands_do_as_they_say(
    bare_database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    programs: Programs,
    tables: list[Any],
    table: str,
) -> None:
    prepare(bare_database, *tables)
    prepare(bare_database, f"INSERT INTO {table} (id, user_id, plan_id, status) VALUES (4, 1, 1, 'PE')")
    for command in SETUP:
        # The test's own environment stands for these.
        if command.startswith(("python3 -m venv", "pip install", "export ")):
            continue
        if command.startswith("pgherald run"):
            break
        done = bash(command, pgherald, programs)
        assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    for command in re.findall(r"`(pgherald (?:preview|install)[^`]+)`", SECTION):
        assert (done := bash(command, pgherald, programs)).returncode == 0, done.stderr
    with pgherald.daemon():
        for command, answer in DIALOGUE:
            done = bash(command.replace("UPDATE dateplan ", f"UPDATE {table} "), pgherald, programs)
            assert (done.returncode, done.stderr) == (0, "")
            assert plain(done.stdout) == plain(answer)
            if command.startswith("psql"):
                mail.wait_for(1)
                wait_until(lambda: all(event["settled_at"] for event in bare_database.events()))
    assert mail.recipients == ["anna@example.org"]
