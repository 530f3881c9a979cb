"""The log has one line per event with its keys in order, and never an address or a secret."""

import json
import re
from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, drop

PASSWORD = "h0rse-battery"
TOKEN = "0123456789abcdef-token"
PLACE = "Rua Augusta 24"
ADDRESS = re.compile(r"[^\s<>\"'\\]{2,}@[^\s<>\"'\\]+")
# Ours, and no person's: what mail comes from is everybody's to know.
_SENDER = "no-reply@example.org"


def addresses(text: str) -> set[str]:
    """Whole ones: a masked one has *** before the @, and `user:secret@host` is what an error says to write."""
    return {found for found in ADDRESS.findall(text) if "***@" not in found and "user:secret@host" not in found} - {
        _SENDER
    }


def assert_clean(lines: list[str], *secrets: str) -> None:
    text = "\n".join(lines)
    assert {secret for secret in (PASSWORD, TOKEN, PLACE, *secrets) if secret in text} == set()
    assert addresses(text) == set()
    assert "Lisbon" not in text


def test_one_canonical_line_an_event(pgherald: Pgherald, database: Database, mail: MailServer) -> None:
    sent = database.add_plan("Lisbon", "ana@example.org")
    silent = database.add_plan("Lisbon", "rui@example.org", consent=False)
    with pgherald.daemon() as daemon:
        database.verify(sent, silent)
        daemon.wait_event("event_sent", key=str(sent))
        daemon.wait_event("event_skipped", key=str(silent), reason="no_consent")
    settled = [event for event in daemon.events if event["event"].startswith("event_")]
    assert len(settled) == 2
    for line, event in zip(daemon.lines, daemon.events, strict=True):
        assert line.startswith('{"timestamp": "20')
        assert list(event)[:3] == ["timestamp", "level", "event"]
    assert_clean(daemon.lines)


@pytest.mark.parametrize("arguments", [("--log-format", "json"), ("--log-format", "console", "--log-level", "info")])
def test_options_go_before_the_environment(pgherald: Pgherald, database: Database, arguments: tuple[str, ...]) -> None:
    done = pgherald("run", "--once", *arguments, env={"PGHERALD_LOG_FORMAT": "console", "PGHERALD_LOG_LEVEL": "error"})
    assert done.returncode == 0
    if "console" in arguments:
        assert re.search(r"\[info +\] ready ", done.stderr)
    else:
        assert done.stderr == ""


def test_a_hostile_run_tells_nothing(pgherald: Pgherald, database: Database, mail: MailServer, tmp_path: Path) -> None:
    people = {
        "rcpt": "carla.mendes+dates@example.org", "dot": "o'brien@example.net", "mail": "zoë@exämple.org",
        "data": "eve@[192.0.2.1]", "drop": "duarte@example.com", "fine": "ana.sousa@example.org",
        "broken": "nobody at all@example.org",
    }  # fmt: skip
    echo = '<{0}>: mailbox {0} of {1}, RCPT TO:<{0}> \x1b[31m "{0}" mailto:{0}?x'
    for phase, person in people.items():
        reply = echo.format(person.encode("ascii", "replace").decode(), "the same")
        if phase in ("rcpt", "dot", "mail", "data"):
            mail.script(phase, answer(f"450-4.2.1 {reply}", f"450 4.2.1 again {reply}"), recipient=person, times=1)
    mail.script("dot", drop(), recipient=people["drop"], times=1)
    plans = [database.add_plan(PLACE, person) for person in people.values()]
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    env = {
        "PGHERALD_LOG_LEVEL": "debug",
        "PGHERALD_HTTP_LISTEN": "127.0.0.1:0",
        "PGHERALD_HTTP_ADMIN_TOKEN_FILE": str(secret),
    }
    with pgherald.daemon(env=env) as daemon:
        database.verify(*plans)
        for plan in plans:
            daemon.wait_event(
                "event_failed" if plan == plans[-1] else "event_sent" if plan == plans[-2] else "event_deferred",
                key=str(plan),
            ) if plan not in (plans[2], plans[3], plans[4]) else None
        # A lookup that breaks with a row's own words in the server's message.
        database.execute("ALTER TABLE public.plan RENAME COLUMN place TO spot")
        database.execute("ALTER TABLE public.plan ADD COLUMN place text")
        database.execute("UPDATE public.plan SET place = NULL")
        database.verify(database.add_plan(PLACE, "luis@example.org"))
        daemon.wait_event("event_sent", key=str(plans[-1] + 1))
        database.execute("ALTER TABLE public.plan DROP COLUMN place")
        database.execute("UPDATE public.dateplan SET status = 'PE'")
        database.verify(*plans)
        daemon.wait_event("rule_suspended")
    assert_clean(daemon.lines, *people.values(), "luis@example.org")


@pytest.mark.slow
def test_no_password_of_a_url(pgherald: Pgherald, database: Database) -> None:
    database.verify(database.add_plan("Lisbon", "rui@example.org"))
    said = []
    with MailServer(security="starttls") as mail:
        login = f"//ana%40example.org:{PASSWORD}@"
        for arguments, env in (
            # Its certificate is nobody's.
            (
                (),
                {
                    "PGHERALD_SMTP_URL": f"{mail.url.replace('//', login)}?starttls=required",
                    "PGHERALD_LOG_LEVEL": "debug",
                },
            ),
            (("--once",), {"PGHERALD_DATABASE_URL": f"postgresql:{login}127.0.0.1:1/app"}),
            # Refused as configuration, and what is refused is often pasted into a ticket.
            (("--once",), {"PGHERALD_DATABASE_URL": f"smpt:{login}db"}),
            (("--once",), {"PGHERALD_SMTP_URL": f"smpt:{login}relay.example.org"}),
        ):
            if arguments:
                done = pgherald("run", *arguments, env=env)
                assert done.returncode == (1 if "127.0.0.1:1" in str(env) else 78)
                said += done.stderr.splitlines()
                continue
            with pgherald.daemon(env=env) as daemon:
                daemon.wait_event("breaker_open")
            said += daemon.lines
    assert len(said) > 5
    assert_clean(said, "rui@example.org", "ana@example.org")


def test_json_lines_are_lines(pgherald: Pgherald) -> None:
    with pgherald.daemon() as daemon:
        pass
    assert all(json.loads(line)["event"] for line in daemon.lines)
