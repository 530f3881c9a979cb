"""send-test sends one real message, or prints one line with the failed step and the remedy."""

from pathlib import Path

import pytest

from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, drop, swallow

NO_DATABASE = {"PGHERALD_DATABASE_URL": "postgresql://127.0.0.1:1/none"}


def test_a_message_that_says_what_it_is(pgherald: Pgherald, mail: MailServer) -> None:
    done = pgherald("send-test", "--to", "me@example.org", env=NO_DATABASE, check=True)
    [received] = mail.wait_for(1)
    assert (received.sender, received.recipient) == ("no-reply@example.org", "me@example.org")
    message = received.email
    assert message["Subject"] == "Test message from pgherald"
    assert not message.defects
    text, html = message.iter_parts()
    assert "there is nothing to do" in text.get_content()
    assert "there is nothing to do" in html.get_content()
    first, last = done.stdout.splitlines()
    assert first == f"from no-reply@example.org to me@example.org through 127.0.0.1:{mail.smtpd.port}, in clear"
    assert last.startswith("accepted: 250 ")
    assert done.stderr == ""
    # The next is another message, and not a second copy for a server that looks at Message-IDs.
    pgherald("send-test", "--to", "me@example.org", env=NO_DATABASE, check=True)
    assert len({message.email["Message-ID"] for message in mail.wait_for(2)}) == 2


def test_a_rules_own_message(database: Database, pgherald: Pgherald, mail: MailServer) -> None:
    plan = database.add_plan("Café", "anna@example.org", status="VE")
    database.add_plan("Bar", "ben@example.org", status="VE")
    pgherald("send-test", "--to", "me@example.org", "--rule", "dateplan_verified", "--key", plan, check=True)
    [received] = mail.wait_for(1)
    assert received.recipient == "me@example.org"
    assert "Your date plan at Café is now verified." in received.email.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert b"anna@example.org" not in received.data
    assert {event["state"] for event in database.events()} == {"available"}


@pytest.mark.parametrize(
    ("phase", "action", "says"),
    [
        ("mail", answer("530 5.7.0 Authentication required"), ("MAIL: 530 5.7.0", "log in")),
        ("rcpt", answer("550 5.1.1 no such user"), ("RCPT: 550 5.1.1 no such user", "correct the address")),
        ("rcpt", answer("550 5.7.1 relaying denied"), ("RCPT: 550 5.7.1", "relay")),
        ("dot", answer("554 5.6.0 no"), ("DOT: 554 5.6.0 no", "log")),
        ("greeting", answer("554 no service", then="close"), ("GREETING: ", "log")),
        ("data", drop(), ("DATA: ", "log")),
        ("dot", swallow(), ("in doubt", "look in the mailbox")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_server_refuses(pgherald: Pgherald, mail: MailServer, phase: str, action, says) -> None:  # type: ignore[no-untyped-def]
    mail.script(phase, action)
    done = pgherald("send-test", "--to", "me@example.org", env=NO_DATABASE)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: not sent: " if phase != "dot" or "554" in says[0] else "Error: in doubt: ")
    for words in (*says, " -> "):
        assert words in line


def test_no_server(pgherald: Pgherald, mail: MailServer) -> None:
    mail.stop()
    done = pgherald("send-test", "--to", "me@example.org", env=NO_DATABASE)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: not sent: CONNECT: ")
    assert line.endswith("-> start the mail server, correct [smtp] url, or open the firewall")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [[], ["--to", "nobody"], ["--to", "a b@example.org"], ["--to", "a@example.org\r\nDATA"], ["--to", "a@b.example", "--key", "1"], ["--to", "a@b.example", "--rule", "none"]],
    ids=["none", "no address", "a space", "a command", "a key without a rule", "no such rule"],
)  # fmt: skip
def test_usage(pgherald: Pgherald, mail: MailServer, arguments: list[str]) -> None:
    done = pgherald("send-test", *arguments, env=NO_DATABASE)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert mail.smtpd.connections == 0


def test_the_guard_holds_for_it_too(pgherald: Pgherald, mail: MailServer) -> None:
    done = pgherald(
        "send-test", "--to", "me@example.com", env={**NO_DATABASE, "PGHERALD_MAIL_ALLOWED_RECIPIENTS": "@example.org"}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "not sent: m***@example.com is not in [mail] allowed_recipients" in done.stderr
    done = pgherald("send-test", "--to", "me@example.com", env={**NO_DATABASE, "PGHERALD_MAIL_REDIRECT_TO": "qa@example.org"})  # fmt: skip
    assert mail.wait_for(1)[0].recipient == "qa@example.org"
    assert "not to me@example.com: [mail] redirect_to is set" in done.stdout


def test_into_a_folder(pgherald: Pgherald, tmp_path: Path) -> None:
    env = {**NO_DATABASE, "PGHERALD_MAIL_TRANSPORT": "file", "PGHERALD_MAIL_DIRECTORY": str(tmp_path / "box")}
    done = pgherald("send-test", "--to", "me@example.org", env=env, check=True)
    [file] = (tmp_path / "box" / "new").iterdir()
    assert f"accepted: 250 new/{file.name}" in done.stdout
