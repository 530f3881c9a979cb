"""Text from a row, a mail server or another session never controls the terminal, and cannot pass for other output."""

import ast
import json
import re
import subprocess
import threading
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg
import pytest
from psycopg import sql

import listener.cli.main
from listener.cli.main import pgherald as program
from tests.acceptance.test_top import watching
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import STORY as TABLES
from tests.support.database import Database, Databases
from tests.support.mail import MailServer
from tests.support.reports import dsn
from tests.support.smtpd import answer

# A terminal title, colours by C0 and C1 codes, BEL, BS, CR and DEL. Bidi override, isolate and marks, zero width, a tag
# and a line separator. Markup and emoji of rich.
EVIL = "\x1b]0;x\x07\x1b[31m\x9b31m\b\r\x7f\u202e\u2066\u200f\u061c\u200b\u2060\ufeff\U000e0041\u2028[bold red][/b]:warning:"
# Of a row's key in a command's arguments, too; and a line break, by which it could make a line of ours.
KEY = f"7{EVIL}\nevent 1: sent"
RULE = "trap"
# As much of it as a name has room for.
TABLE = 'public."Trap\x1b[31m\x9b1m\r\u202e\u200b\U000e0041[bold]"'
VALUE = f"V{EVIL}"
STORY = "dateplan_verified"


def hidden(text: str) -> set[str]:
    """Characters that do not show or do something, by Unicode's categories; our own layout has line feeds only."""
    return {
        ascii(char)
        for char in text
        if (unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} and char != "\n") or char == "\u034f"
    }


@dataclass
class World:
    """A database with a hostile table, rows, events and workers in it, and a configuration that watches that table."""

    database: Database
    mail: MailServer
    run: Callable[..., "subprocess.CompletedProcess[str]"]
    folder: Path
    pgherald: Pgherald
    events: list[int]


def toml(text: str) -> str:
    return json.dumps(text)[1:-1].replace("\\udb40\\udc41", "\\U000E0041")


@pytest.fixture
def world(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> World:
    quoted = TABLE.replace('public."', "").rstrip('"')
    with database.connect() as conn:
        conn.execute(
            sql.SQL(
                """CREATE TABLE public.{} (key text PRIMARY KEY, status text, email text, consent boolean, place text);
                   INSERT INTO pgherald.worker (name, version, lease, has_presence_lock, breaker_reason)
                   VALUES ({}, '1', '1 day', false, {});
                   INSERT INTO pgherald.rule (rule, "table", table_name, key, "column", becomes)
                   VALUES ({}, 'public.dateplan', 'public.dateplan', '{{id}}', 'status', '{{VE}}')"""
            ).format(sql.Identifier(quoted), f"host{EVIL}", f"550 {EVIL}", f"other{EVIL}")
        )
    (tmp_path / "pgherald.toml").write_text(
        f'''
[rules.{RULE}]
table = "{toml(TABLE)}"
key = "key"
becomes = "{toml(VALUE)}"
template = "{STORY}"
lookup = """
  SELECT d.key, d.status AS current, d.email, d.consent, d.place FROM {toml(TABLE)} AS d WHERE d.key = ANY (%(keys)s)
"""
''',
        encoding="utf-8",
    )
    row = sql.SQL("INSERT INTO public.{} VALUES (%s, %s, 'ana@example.org', true, %s)").format(sql.Identifier(quoted))
    database.execute(row, (f"old {KEY}", VALUE, EVIL))
    pgherald("install", check=True)
    database.execute(row, (KEY, VALUE, EVIL))
    events = []
    for state in ("failed", "in_doubt", "skipped"):
        events += database.execute(
            """INSERT INTO pgherald.outbox (rule, key, state, reason, history, settled_at, scheduled_at)
               VALUES (%s, %s, %s, %s, jsonb_build_array(jsonb_build_object('at', now(), 'what', %s::text, 'detail', %s::text)),
                       CASE WHEN %s <> 'in_doubt' THEN now() END, NULL) RETURNING id""",
            (RULE if state != "skipped" else f"rule{EVIL}", KEY, state, f"reason{EVIL}", f"what{EVIL}", f"250 {EVIL}", state),
        )  # fmt: skip

    def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        done = pgherald(*arguments, **options)  # type: ignore[arg-type]
        assert "Traceback" not in done.stderr
        assert hidden(done.stdout + done.stderr) == set(), (arguments, done.stdout, done.stderr)
        return done

    return World(database, mail, run, tmp_path, pgherald, [id for (id,) in events])


CASES: dict[tuple[str, ...], Callable[[World], None]] = {}


def case(*path: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def keep(function: Callable[[World], None]) -> Callable[[World], None]:
        CASES[path] = function
        return function

    return keep


@case("demo")
def _demo(world: World) -> None:
    assert world.run("demo", "--count", EVIL).returncode == 2


@case("init")
def _init(world: World) -> None:
    (world.folder / "pgherald.toml").unlink()
    written = world.run("init", "--out", "-", "--table", TABLE, "--becomes", VALUE)
    assert written.stdout, written.stderr
    [rule] = tomllib.loads(written.stdout)["rules"].values()
    assert rule["becomes"] == VALUE
    assert rule["table"] == TABLE
    assert TABLE in rule["lookup"]
    assert "there is no table" in world.run("init", "--out", "-", "--table", EVIL).stderr
    file = world.folder / f"{EVIL.replace('/', '')}.toml"
    assert "rule " in world.run("init", "--out", file, "--table", TABLE).stdout
    assert hidden(file.read_text(encoding="utf-8")) == set()
    assert "exists; choose another file" in world.run("init", "--out", file).stderr


@case("install")
def _install(world: World) -> None:
    done = world.run("install", check=True)
    assert f"{RULE}: watching public." in done.stdout
    assert "other�]0;x��[31m�31m" in done.stderr
    printed = world.run("install", "--print")
    assert (printed.returncode, printed.stdout) == (1, "")
    assert "the SQL has invisible characters" in printed.stderr
    assert world.run("install", "--grant-to", EVIL).returncode == 1


@case("uninstall")
def _uninstall(world: World) -> None:
    assert world.run("uninstall", EVIL).returncode == 2
    assert world.run("uninstall").returncode == 1
    assert world.run("uninstall", "--print", check=True).stdout.count("\n") > 5


@case("doctor")
def _doctor(world: World) -> None:
    said = world.run("doctor").stdout
    assert "host�]0;x��[31m�31m" in said
    assert f"triggers {RULE}: on public." in said
    assert all("  " in line for line in said.splitlines())
    found = json.loads(world.run("doctor", "--json").stdout)
    assert any(TABLE in finding["seen"] for finding in found)


@case("run")
def _run(world: World) -> None:
    world.mail.script("rcpt", answer(f"450 4.2.1 {EVIL}".replace("\r", "")), times=1)
    world.mail.script("dot", answer(f"250 {EVIL}".replace("\r", "")))
    done = world.run("run", "--once", "--log-format", "console", "--log-level", "debug", check=True)
    assert "event_deferred" in done.stderr
    world.database.execute("UPDATE pgherald.outbox SET scheduled_at = now() WHERE state = 'available'")
    done = world.run("run", "--once", "--log-format", "json", check=True)
    [sent] = [event for line in done.stderr.splitlines() if "event_sent" in line and (event := json.loads(line))]
    assert sent["key"] == KEY
    # To the screen, the message itself.
    world.database.execute(
        "UPDATE pgherald.outbox SET state = 'available', settled_at = NULL, scheduled_at = now() WHERE state = 'sent'"
    )
    shown = world.run("run", "--once", env={"PGHERALD_MAIL_TRANSPORT": "console"}, check=True).stdout
    assert "To: ana@example.org" in shown
    assert "Your date plan at" in shown


@case("status")
def _status(world: World) -> None:
    said = world.run("status", check=True).stdout
    assert said.count("[bold red][/b]:warning:") >= 2
    answer = json.loads(world.run("status", "--json", check=True).stdout)
    assert answer["workers"][0]["name"] == f"host{EVIL}"
    assert f"rule{EVIL}" in answer["rules"]


@case("top")
def _watch(world: World) -> None:
    with watching(world.pgherald) as terminal:
        terminal.wait_for("in doubt")
        terminal.wait_for("Failed")
        terminal.wait_for("holds|not seen|polling")
        terminal.press(b"q")
        terminal.ended()
        ours = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.raw).replace("\r\n", "\n")
        assert hidden(ours.replace("\r", "")) == set()
        assert "\x1b]" not in terminal.raw
        assert "other�]0;x��[31m" in ours


@case("bounce")
def _bounce(world: World) -> None:
    told = json.loads(world.run("explain", RULE, KEY, "--json", check=True).stdout)
    [name] = [event["message_id"] for event in told["events"] if event["state"] == "in_doubt"]
    report = dsn(key=name, diagnostic=f"smtp; 550 5.1.1 {EVIL}").decode()
    assert f"hard bounce of {RULE}" in world.run("bounce", input=report, check=True).stdout
    assert "(bounced)" in world.run("explain", RULE, KEY, check=True).stdout
    assert world.run("bounce", input=EVIL).returncode == 65


@case("explain")
def _explain(world: World) -> None:
    said = world.run("explain", RULE, KEY, check=True).stdout
    assert len(re.findall(r"(?m)^event \d+: ", said)) == 3
    told = json.loads(world.run("explain", RULE, KEY, "--json", check=True).stdout)
    assert told["key"] == KEY
    assert f"250 {EVIL}" in {entry["detail"] for event in told["events"] for entry in event["history"]}
    assert world.run("explain", RULE, f"none{KEY}").returncode == 1
    assert world.run("explain", EVIL, KEY).returncode == 2
    assert world.run("explain", RULE, "--email", EVIL).returncode in (1, 2)
    name = told["events"][0]["message_id"]
    assert json.loads(world.run("explain", "--message", f"{EVIL} {name}", "--json", check=True).stdout)["key"] == KEY
    assert world.run("explain", "--message", EVIL).returncode == 2


@case("events", "list")
def _events_list(world: World) -> None:
    said = world.run("events", "list", check=True).stdout
    # A line break in a key starts no new line: each line begins with the id of an event.
    assert re.findall(r"(?m)^ (\d+) ", said) == ["1", *map(str, world.events)]
    listed = json.loads(world.run("events", "list", "--json", check=True).stdout)
    assert [event["key"] for event in listed] == [KEY] * 4
    assert world.run("events", "list", EVIL).returncode == 2
    assert world.run("events", "list", "--state", EVIL).returncode == 2
    assert world.run("events", "list", "--older-than", EVIL).returncode == 2


@case("events", "retry")
def _events_retry(world: World) -> None:
    assert "would retry" in world.run("events", "retry", RULE, "--dry-run", check=True).stdout
    assert world.run("events", "retry", EVIL).returncode == 2


@case("events", "discard")
def _events_discard(world: World) -> None:
    assert "would discard" in world.run("events", "discard", RULE, "--dry-run", check=True).stdout


@case("events", "resolve")
def _events_resolve(world: World) -> None:
    world.run("events", "resolve", RULE, "--as", "sent", "--dry-run", check=True)
    assert world.run("events", "resolve", RULE, "--as", EVIL).returncode == 2
    assert "Choose from: sent, resend" in world.run("events", "resolve", RULE).stderr


@case("pause")
def _pause(world: World) -> None:
    world.run("pause", RULE, check=True)
    assert world.run("pause", EVIL).returncode == 2
    assert "paused" in world.run("explain", RULE, KEY).stdout


@case("resume")
def _resume(world: World) -> None:
    world.run("resume", RULE, check=True)
    assert world.run("resume", EVIL).returncode == 2
    assert world.run("resume", check=True).stdout == "1 daemon will try the mail server now\n"


@case("rewatch")
def _rewatch(world: World) -> None:
    world.run("rewatch", RULE, check=True)
    assert world.run("rewatch", EVIL).returncode == 2
    assert world.run("rewatch", RULE, "--alter", f'SELECT "{EVIL}"').returncode == 1


@case("backfill")
def _backfill(world: World) -> None:
    said = world.run("backfill", RULE, "--dry-run", "--include-existing", check=True).stdout
    assert "such as old 7" in said
    assert len(said.splitlines()) == 2
    assert world.run("backfill", RULE, "--since", EVIL).returncode == 2
    assert world.run("backfill", RULE, "--rate", EVIL).returncode == 2


@case("forget")
def _forget(world: World) -> None:
    world.run("forget", RULE, KEY, check=True)
    assert world.run("forget", EVIL, KEY).returncode == 2


@case("purge")
def _purge(world: World) -> None:
    world.run("purge", "--older-than", "1d", check=True)
    assert world.run("purge", "--older-than", EVIL).returncode == 2


@case("preview")
def _preview(world: World) -> None:
    said = world.run("preview", RULE, "--key", KEY, check=True).stdout
    assert "Your date plan at" in said
    assert "[bold red][/b]:warning:" in said
    assert world.run("preview", RULE, "--key", f"none{KEY}").returncode == 1
    world.run("preview", RULE, "--out", world.folder / f"out{EVIL}", check=True)


@case("send-test")
def _send_test(world: World) -> None:
    world.mail.script("dot", answer(f"250 {EVIL}".replace("\r", "")), times=1)
    assert "accepted: 250" in world.run("send-test", "--to", "me@example.org", check=True).stdout
    world.mail.script("rcpt", answer(f"550 5.1.1 {EVIL}".replace("\r", "")), times=1)
    assert world.run("send-test", "--to", "me@example.org").returncode == 1
    assert world.run("send-test", "--to", EVIL).returncode == 2
    world.run("send-test", "--to", "me@example.org", "--rule", RULE, "--key", KEY, check=True)


def commands(group: click.Group = program, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ALL = list(commands())


def _paced(path: tuple[str, ...]) -> object:
    return path if path in (("explain",), ("install",)) else pytest.param(path, marks=pytest.mark.slow)


def test_every_command_has_its_case() -> None:
    assert set(CASES) == set(ALL)
    assert len(ALL) > 15


@pytest.mark.parametrize("path", [*map(_paced, ALL)], ids=" ".join)
def test_a_hostile_database_and_mail_server(world: World, path: tuple[str, ...]) -> None:
    CASES[path](world)


@pytest.mark.parametrize("path", [*map(_paced, ALL)], ids=" ".join)
def test_a_hostile_option_and_a_hostile_configuration(
    pgherald: Pgherald, tmp_path: Path, path: tuple[str, ...]
) -> None:
    done = pgherald(*path, f"--{EVIL}")
    assert done.returncode == 2
    assert hidden(done.stdout + done.stderr) == set()
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    if path == ("demo",):
        # It has a configuration of its own.
        return
    file = tmp_path / "evil.toml"
    file.write_text(
        f"[rules.\"{toml(EVIL)}\"]\ntable = \"{toml(EVIL)}\"\n[delivery]\npoll = \"{toml(EVIL)}\"\n[mail]\ntemplates = \"{toml(EVIL)}\"\n\"{toml(EVIL)}\" = 1\n"
    )  # fmt: skip
    needed = {
        "explain": ["a", "b"], "pause": ["a"], "resume": ["a"], "rewatch": ["a"], "backfill": ["a"], "forget": ["a", "b"],
        "purge": ["--older-than", "1d"], "preview": ["a"], "send-test": ["--to", "a@example.org"], "resolve": ["1", "--as", "sent"],
        "init": ["--out", "-"],
    }  # fmt: skip
    done = pgherald("--config", file, *path, *needed.get(path[-1], []), input=dsn().decode())
    if path != ("top",):
        # `init` reads no rules: it is about to write them.
        assert ("[mail]" if path == ("init",) else "[rules.") in done.stderr
    # A mail server reads the status of `bounce`, and keeps the report until the configuration is right.
    assert done.returncode == {("bounce",): 75, ("run",): 78}.get(path, 1)
    assert hidden(done.stdout + done.stderr) == set()
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def other_role(databases: Databases, bare_database: Database) -> Iterator[str]:
    """The URL of a role with a hostile name; roles are the whole server's."""
    database = bare_database
    name = f"{database.value('SELECT current_database()')}\x1b[31m\u202e"[-60:]
    role = sql.Identifier(name)
    database.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD 'geheim'").format(role))
    yield psycopg.conninfo.make_conninfo(database.url, user=name, password="geheim", application_name=f"app{EVIL}")
    with psycopg.connect(databases.url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_session_that_blocks_install(bare_database: Database, pgherald: Pgherald, other_role: str) -> None:
    done: list[subprocess.CompletedProcess[str]] = []
    bare_database.execute(TABLES)
    with psycopg.connect(other_role) as holder:
        holder.execute(f"/* {EVIL} */ LOCK TABLE public.dateplan IN ROW EXCLUSIVE MODE".encode())
        installer = threading.Thread(target=lambda: done.append(pgherald("install")))
        installer.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.dateplan'::regclass"
        wait_until(lambda: bare_database.value(waiting), timeout=30)
        wait_until(lambda: not bare_database.value(waiting), timeout=30)
        # At its second try it has looked who held the table at the first.
        wait_until(lambda: bare_database.value(waiting), timeout=30)
        holder.rollback()
        installer.join()
    said = done[-1]
    assert said.returncode == 0, said.stderr
    assert "waiting for a lock on public.dateplan, held by pid" in said.stderr
    assert "/* �]0;x��[31m�31m" in said.stderr
    assert hidden(said.stdout + said.stderr) == set()


def test_commands_print_through_one_place() -> None:
    """A `click.echo` of its own would let through what it is given."""
    cli = Path(listener.cli.__file__).parent
    found = []
    for file in cli.glob("*.py"):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write",
            }:  # fmt: skip
                found.append((file.name, ast.unparse(node)))
    assert found == [("main.py", "click.echo('Aborted!', err=True)")]


def test_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fault of our own: the interpreter would print the exception's words as they are."""

    def load(*_: object, **__: object) -> None:
        raise RuntimeError(EVIL)

    monkeypatch.setattr("listener.config.settings.load", load)
    monkeypatch.setattr("sys.argv", ["pgherald", "status"])
    with pytest.raises(SystemExit) as ended:
        listener.cli.main.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "RuntimeError: \ufffd]0;x" in said.err
    assert hidden(said.out + said.err) == set()
