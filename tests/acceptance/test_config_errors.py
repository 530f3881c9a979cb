"""What is wrong gets one line that says what, where and the remedy; the right exit status; and the events stay."""

from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

LOOKUP = """
SELECT d.id AS key, d.status AS current, u.email, u.email_notifications_enabled AS consent, p.place
  FROM public.dateplan d LEFT JOIN public.users u ON u.id = d.user_id LEFT JOIN public.plan p ON p.id = d.plan_id
 WHERE d.id = ANY (%(keys)s::bigint[])"""
RULE = {
    "table": "public.dateplan",
    "key": "id",
    "column": "status",
    "becomes": "VE",
    "template": "dateplan_verified",
    "lookup": LOOKUP,
}


def configuration(folder: Path, rest: str = "", **changes: str) -> Path:
    keys = "\n".join(f'{name} = """{value}"""' for name, value in {**RULE, **changes}.items())
    file = folder / "pgherald.toml"
    file.write_text(f"{rest}\n[rules.dateplan_verified]\n{keys}\n")
    return file


def refuses(pgherald: Pgherald, *arguments: object, says: tuple[str, ...], status: int = 1, **env: str) -> None:
    done = pgherald(*arguments, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    *log, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    for words in says:
        assert words in last
    assert "Traceback" not in done.stderr
    assert log == [] or status == 2


@pytest.mark.parametrize("command", [["run", "--once"], ["run"], ["status"], ["install"]], ids=" ".join)
def test_unknown_key(pgherald: Pgherald, tmp_path: Path, command: list[str]) -> None:
    file = configuration(tmp_path, "[smtp]\nconections = 4\n")
    refuses(pgherald, "--config", file, *command, says=(str(file), "[smtp] conections", "unknown key", "'connections'"))


def test_unknown_rule_is_a_matter_of_usage(pgherald: Pgherald) -> None:
    refuses(pgherald, "explain", "dateplan", "1", says=("'dateplan'", "dateplan_verified"), status=2)
    refuses(pgherald, "preview", "dateplan", says=("'dateplan'", "dateplan_verified"), status=2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"table": "public.dateplans"}, ("dateplan_verified", "public.dateplans", "no table")),
        ({"column": "state"}, ("dateplan_verified", "pgherald install")),
        ({"lookup": LOOKUP.replace("u.email,", "")}, ("dateplan_verified", "'email'")),
        ({"lookup": LOOKUP.replace("p.place", "p.plaice")}, ("dateplan_verified", "plaice")),
        ({"lookup": LOOKUP.replace(", p.place", "")}, ("template dateplan_verified", "{{ place }}")),
        ({"lookup": LOOKUP + "; -- the end"}, ("dateplan_verified", "one SELECT", ";")),
        ({"template": "no_such"}, ("no_such",)),
        ({"unsubscribe": "DELETE FROM nobody WHERE id = ANY (%(keys)s)"}, ("unsubscribe fails", "nobody")),
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
    ],
)
@pytest.mark.parametrize("once", [["--once"], []], ids=["once", "daemon"])
def test_run_refuses_what_no_waiting_would_mend(
    database: Database,
    pgherald: Pgherald,
    tmp_path: Path,
    changes: dict[str, str],
    says: tuple[str, ...],
    once: list[str],
) -> None:
    database.verify(database.add_plan("Café", "a@example.org"))
    refuses(pgherald, "--config", configuration(tmp_path, **changes), "run", *once, says=says)
    assert [event["state"] for event in database.events()] == ["available"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ plaice }}", ("{{ plaice }}",)),
        ("{% if %}", ("body.txt.j2", "line 1")),
        ("{{ place.__class__.__mro__ }}", ()),
    ],
    ids=["undefined", "syntax", "not sandboxed"],
)
def test_a_template_that_is_wrong(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path, text: str, says: tuple[str, ...]
) -> None:
    folder = tmp_path / "templates" / "dateplan_verified"
    folder.mkdir(parents=True)
    (folder / "body.txt.j2").write_text(text)
    database.verify(database.add_plan("Café", "a@example.org"))
    if says:
        refuses(pgherald, "run", "--once", says=says, PGHERALD_MAIL_TEMPLATES=str(folder.parent))
        assert [event["state"] for event in database.events()] == ["available"]
    else:
        done = pgherald("run", "--once", env={"PGHERALD_MAIL_TEMPLATES": str(folder.parent)})
        assert "Traceback" not in done.stderr
        assert mail.messages == []


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


def test_without_install(bare_database: Database, pgherald: Pgherald) -> None:
    for command in (["run", "--once"], ["run"], ["status"]):
        refuses(pgherald, *command, says=("pgherald install",))


@pytest.mark.parametrize(
    "command", [["run", "--once"], ["status"], ["install"], ["explain", "dateplan_verified", "1"]], ids=" ".join
)
def test_no_database(pgherald: Pgherald, command: list[str]) -> None:
    says = ("Connection refused", "start it, or correct [database] url (PGHERALD_DATABASE_URL)")
    refuses(pgherald, *command, says=says, PGHERALD_DATABASE_URL="postgresql://127.0.0.1:1/x")
    refuses(pgherald, *command, says=("[database] url",), PGHERALD_DATABASE_URL="mysql://x")


def test_keys(database: Database, pgherald: Pgherald) -> None:
    there = database.add_plan("Café", "a@example.org")
    assert pgherald("explain", "dateplan_verified", "999999").returncode == 1
    assert pgherald("explain", "dateplan_verified", "no number").returncode == 1
    done = pgherald("explain", "dateplan_verified", there)
    assert done.returncode == 0
    assert "status is 'PE', not 'VE'" in done.stdout


def test_a_key_that_the_lookup_cannot_take(database: Database, pgherald: Pgherald) -> None:
    says = ("dateplan_verified", "key no number", "22P02")
    refuses(pgherald, "preview", "dateplan_verified", "--key", "no number", says=says)


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
    refuses(pgherald, "--config", file, "status", says=("[rules.dateplan_verified] table: write a name",))
