"""`pgherald bounce`: one line, and an exit status that a mail server understands."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import listener.cli.bounce
from listener.cli.bounce import bounce
from listener.cli.events import list_
from listener.cli.explain import explain
from listener.cli.status import status
from listener.config.rules import DEFAULT_NAME
from listener.db.schema import read_secret
from listener.message_id import make_message_id
from tests.support.configuration import configuration
from tests.support.database import Database
from tests.support.reports import arf, dsn

EX_DATAERR, EX_TEMPFAIL = 65, 75
PAGE = (Path(__file__).parents[3] / "docs" / "bounces.md").read_text(encoding="utf-8")
# As the page shows it.
STATEMENT = PAGE.partition('bounced = """')[2].partition('"""')[0]
BROKEN = "DELETE FROM public.gone WHERE id::text = ANY (%(keys)s)"

Run = Callable[..., Result]


@pytest.fixture
def run(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process. `url`, `smtp` and `bounced` change the configuration."""
    # The log would stay silent for the tests that follow in this process.
    monkeypatch.setattr(listener.cli.bounce.logs, "configure", lambda *_: None)

    def run(
        command: Any, *arguments: str, input: bytes | BytesIO = b"", url: str = database.url, smtp: str = "smtp://127.0.0.1",
        bounced: str = STATEMENT,
    ) -> Result:  # fmt: skip
        head = f'[database]\nurl = "{url}"\n[mail]\nfrom = "no-reply@example.com"\n[smtp]\nurl = "{smtp}"'
        file = configuration(tmp_path, head, bounced=bounced)
        return CliRunner().invoke(command, [*arguments, "--config", str(file)], input=input)

    return run


@pytest.fixture
def key(database: Database) -> str:
    """The key of an email that was sent."""
    database.verify(database.add_plan("Café", "gone@example.org"))
    database.execute("UPDATE pgherald.outbox SET state = 'sent', settled_at = now()")
    [event] = database.events()
    return make_message_id(read_secret(database.connect()), DEFAULT_NAME, event["id"], event["captured_at"])


def test_its_lines_and_exit_statuses(run: Run, key: str) -> None:
    hard, away = dsn(key=key), {"url": "postgresql://127.0.0.1:1/x"}
    for raw, changes, expected, words in (
        (dsn(key=key, action="delayed"), away, 0, "the mail server reports delayed, and no failure"),
        (b"Auto-Submitted: auto-replied\n\nI am away.\n", {}, 0, "automatic reply"),
        (b"Subject: Hello\n\nHow are you?\n", {}, EX_DATAERR, "Error: this email is no report"),
        (b"", {}, EX_DATAERR, "Error: this email is no report"),
        (dsn(), {}, EX_DATAERR, "not on an email of this database"),
        (b"Content-Type: message/rfc822\n\n" * 5000, {}, EX_DATAERR, "Error: this email has too many parts"),
        (hard, away, EX_TEMPFAIL, "Error: the database cannot be reached"),
        (hard, {"smtp": "ftp://x"}, EX_TEMPFAIL, "Error: "),
        (hard, {"bounced": BROKEN}, EX_TEMPFAIL, "Error: [rules.dateplan_verified] bounced fails: relation"),
        (hard, {}, 0, "hard bounce of dateplan_verified 1 recorded; the statement `bounced` changed 1 row"),
        (hard, {}, 0, "has a report of class hard already; nothing changed"),
        (arf(key=key), {}, 0, "complaint of dateplan_verified 1 recorded"),
    ):
        done = run(bounce, input=raw, **changes)
        assert (done.exit_code, len(done.output.splitlines())) == (expected, 1), (words, done.output)
        assert words in done.output


def test_the_whole_email_is_read_so_that_its_writer_can_finish(run: Run, key: str) -> None:
    email = BytesIO(dsn(key=key) + b"x" * 2_000_000)
    assert run(bounce, input=email).exit_code == 0
    assert email.read() == b""


def test_the_commands_show_it(run: Run, key: str, database: Database) -> None:
    for raw in (dsn(key=key), arf(key=key)):
        assert run(bounce, input=raw).exit_code == 0
    assert database.value("SELECT email_notifications_enabled FROM public.users") is False
    assert "event 1: sent (complained), attempt 0" in run(explain, DEFAULT_NAME, "1").output
    [event] = json.loads(run(explain, DEFAULT_NAME, "1", "--json").output)["events"]
    assert [entry["what"] for entry in event["history"]] == ["captured", "bounced", "complained"]
    [listed] = json.loads(run(list_, "--reason", "complained", "--json").output)
    assert listed["id"] == 1
    rule = json.loads(run(status, "--json").output)["rules"][DEFAULT_NAME]
    assert (rule["sent"], rule["bounced"], rule["complained"]) == (1, 1, 1)
