"""A configuration that is wrong gets one line that says what, where and the remedy; and the events stay."""

from pathlib import Path

import pytest

from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.configuration import LOOKUP, configuration, refuses
from tests.support.database import Database


@pytest.mark.parametrize("command", [["run", "--once"], ["run"], ["status"], ["install"]], ids=" ".join)
def test_unknown_key(pgherald: Pgherald, tmp_path: Path, command: list[str]) -> None:
    file = configuration(tmp_path, "[smtp]\nconections = 4\n")
    says = (str(file), "[smtp] conections", "unknown key", "'connections'")
    # systemd restarts `run` after any other status.
    refuses(pgherald, "--config", file, *command, says=says, status=78 if command[0] == "run" else 1)


def test_unknown_rule_is_a_matter_of_usage(pgherald: Pgherald) -> None:
    refuses(pgherald, "explain", "dateplan", "1", says=("'dateplan'", "dateplan_verified"), status=2)
    refuses(pgherald, "preview", "dateplan", says=("'dateplan'", "dateplan_verified"), status=2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"table": "public.dateplans"}, ("dateplan_verified", "public.dateplans", "no table")),
        ({"column": "state"}, ("dateplan_verified", "pgherald install")),
        repeats({"lookup": LOOKUP.replace("u.email,", "")}, ("dateplan_verified", "'email'")),
        ({"lookup": LOOKUP.replace("p.place", "p.plaice")}, ("dateplan_verified", "plaice")),
        repeats({"lookup": LOOKUP.replace(", p.place", "")}, ("template dateplan_verified", "{{ place }}")),
        repeats({"lookup": LOOKUP + "; -- the end"}, ("dateplan_verified", "single SELECT", "semicolon")),
        ({"template": "no_such"}, ("no_such",)),
        ({"unsubscribe": "DELETE FROM nobody WHERE id = ANY (%(keys)s)"}, ("unsubscribe fails", "nobody")),
        ({"bounced": "DELETE FROM nobody WHERE id = ANY (%(keys)s)"}, ("bounced fails", "nobody")),
    ],
    ids=[
        "table",
        "column",
        "lookup lacks email",
        "lookup names no column",
        "lookup lacks the template's",
        "lookup goes on behind its end",
        "template",
        "unsubscribe",
        "bounced",
    ],
)
@pytest.mark.parametrize("once", [["--once"], repeats([])], ids=["once", "daemon"])
def test_run_refuses_what_no_waiting_would_mend(
    database: Database,
    pgherald: Pgherald,
    tmp_path: Path,
    changes: dict[str, str],
    says: tuple[str, ...],
    once: list[str],
) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    # The database may be corrected while the daemon is away. A template cannot be: it is read before.
    status = 78 if "template" in changes else 1
    refuses(pgherald, "--config", configuration(tmp_path, **changes), "run", *once, says=says, status=status)
    assert [event["state"] for event in database.events()] == ["available"]


def test_a_daemon_refuses_too(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    file = configuration(tmp_path, lookup=LOOKUP.replace("u.email,", ""))
    refuses(pgherald, "--config", file, "run", says=("dateplan_verified", "'email'"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"table": "public.dateplans"}, ("no table public.dateplans", "correct [rules.dateplan_verified]")),
        ({"column": "state"}, ("dateplan_verified", 'no column "state"', "correct [rules.dateplan_verified]")),
        ({"key": "user_id"}, ("dateplan_verified", '"user_id"', "may be NULL")),
    ],
    ids=["table", "column", "key"],
)
def test_install_refuses_what_cannot_be_watched(
    database: Database, pgherald: Pgherald, tmp_path: Path, changes: dict[str, str], says: tuple[str, ...]
) -> None:
    refuses(pgherald, "--config", configuration(tmp_path, **changes), "install", says=says)


def test_a_missing_file(pgherald: Pgherald, tmp_path: Path) -> None:
    refuses(pgherald, "--config", tmp_path / "none.toml", "status", says=("none.toml", "No such file"))
    (tmp_path / "broken.toml").write_text("[smtp\n")
    refuses(pgherald, "--config", tmp_path / "broken.toml", "status", says=("broken.toml", "line 1"))


def test_a_rule_that_is_not_installed(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    file = configuration(tmp_path)
    file.write_text(file.read_text() + file.read_text().replace("dateplan_verified]", "other]"))
    refuses(pgherald, "--config", file, "run", "--once", says=("rule other is not watched", "pgherald install"))
    plan = database.add_plan("Café", "a@example.org")
    assert "not watched" in pgherald("--config", file, "explain", "other", plan).stdout


def test_a_table_that_is_no_name(pgherald: Pgherald, tmp_path: Path) -> None:
    file = configuration(tmp_path, table="dateplan; DROP TABLE users")
    refuses(
        pgherald,
        "--config",
        file,
        "status",
        says=("[rules.dateplan_verified] table: is not a table with its schema; write public.dateplan",),
    )
