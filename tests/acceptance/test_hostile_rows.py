"""Each text of a row is hostile: the email is as intended and goes to its recipient, or fails with a reason."""

import email
import email.policy
import html
import json
import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from listener.printable import without_invisible
from tests.support.backlog import states
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import EXTENSIONS, Received

TEMPLATE = {
    "subject.txt.j2": "Verified: {{ place }}",
    "body.txt.j2": "[[{{ place }}]]",
    "body.html.j2": "<p>[[{{ place }}]]</p>",
}
PLACES = [
    # Headers and commands.
    "x\r\nBcc: evil@example.org", "x\nBcc: evil@example.org", "x\rBcc: evil@example.org", "\r\n\r\nx", "x\r\n.\r\nQUIT\r\n",
    "x\r\n.\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<evil@example.org>\r\nDATA\r\n", "x\n.\nMAIL FROM:<evil@example.org>\n",
    "x\r.\rRSET\r", "x\n.\r\ny", "x\r\n.\ry", ".", "..\n.\n.", "\x0bBcc: e\x0cBcc: e\x1cBcc: e\x85Bcc: e\u2028Bcc: e\u2029Bcc: e",
    # Encoded words that some programs decode into a header.
    "=?utf-8?q?x=0d=0aBcc=3a_evil@example.org?=", "x =?UTF-8?Q?=0A?=Bcc: evil@example.org", "=?utf-8?b?eA0KQmNjOiBldmlsQGV4YW1wbGUub3Jn?=",
    "=?utf-8?q?=0d=0a=0d=0abody?=", "=?", "é =?utf-8?q?x=0d=0aBcc=3a_evil?=", "=0D=0A.=0D=0A", "=\n=\n", "x" * 75 + "=",
    # Characters that reverse text, hide it or control a terminal.
    "\u202egro.elpmaxe@live\u2066\u061c\u200e\u200f\u2069", "\u200b\ufeff\u00ad", "\x01\x07\x1b[31m\x7f\x80\x9f", "👩‍👩‍👧‍👦 שלום 日本", "",
    # HTML and templates.
    "<script>alert(1)</script>", "</p></body></html><img src=x onerror=alert(1)>", "\"' onmouseover='x", "<!--", "]]>", "&lt;b&gt;",
    "{{ 7 * 7 }}", "{% for x in range(9) %}{{ x }}{% endfor %}", "{{ ''.__class__.__mro__ }}", "{# x #}", "${7*7} %s %(x)s {0}",
    # Boundaries, and much of everything.
    "--=_x--", "\r\n--=_abcdefghijklmnopqrstuvwxyz--\r\n", "a" * 990, "é" * 5000, " " * 3000, "\t\n" * 2000, "a b " * 1000, "🎉" * 2000,
]  # fmt: skip
LARGE = ["a" * 1_000_000, "é" * 1_000_000, "\n" * 1_000_000, "<" * 300_000, "=?" * 400_000]
ADDRESSES: dict[str, str | None] = {
    "jane@example.org\r\nRCPT TO:<evil@example.org>": None, "jane@example.org>\r\nDATA\r\n": None, "x@example.org\nBcc: y@example.org": None,
    "jane@example.org, evil@example.org": None, "evil@example.org <jane@example.org>": None, "<jane@example.org><evil@example.org>": None,
    '"jane doe"@example.org': None, '"jane\r\n"@example.org': None, 'ja"ne@example.org': None, "jane doe@example.org": None,
    "jane@exam ple.org": None, "jane@": None, "@example.org": None, "jane": None, "jane@@example.org": None, "jane@example..org": None,
    "jane@[127.0.0.1]": None, "jane@127.0.0.1": None, "=?utf-8?q?evil?=@example.org": None, "jane@example.org SIZE=1": None,
    "a" * 65 + "@example.org": None, "a@" + "b." * 126 + "org": None, "ja\u202ene@example.org": None, "jane＠example.org＠": None,
    "jane\u200d@example.org": None, "mailto:jane%0D%0A@example.org": None, "j\x01ne@example.org": None, "用\u2028户@example.org": None, "a" * 1_000_000 + "@example.org": None,
    # These are addresses.
    " padded@example.org\n": "padded@example.org", "JANE@EXAMPLE.ORG": "JANE@example.org", "o'brien+x=y@example.org": "o'brien+x=y@example.org",
    "<bracket@example.org>": "bracket@example.org", "wide＠example.org": "wide@example.org", "zero\u200b@example.org": "zero@example.org",
    "mailto:url@example.org?subject=x%0D%0ABcc:x": "url@example.org", "x..y.@docomo.ne.jp": '"x..y."@docomo.ne.jp',
    "{{7*7}}@example.org": "{{7*7}}@example.org", "-oQ/tmp@example.org": "-oQ/tmp@example.org",
    "jane@münchen.example": "jane@xn--mnchen-3ya.example", "用户@例え.example": "用户@xn--r8jz45g.example",
}  # fmt: skip
ORDINARY = 20


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates" / "dateplan_verified"
    folder.mkdir(parents=True)
    for name, text in TEMPLATE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder.parent


@pytest.fixture
def ascii_mail() -> Iterator[MailServer]:
    with MailServer(extensions=[name for name in EXTENSIONS if name != "SMTPUTF8"]) as mail:
        yield mail


def test_hostile_rows(database: Database, mail: MailServer, pgherald: Pgherald, templates: Path) -> None:
    ordinary = [database.add_plan("Café", f"ordinary{n}@example.org") for n in range(ORDINARY)]
    by_place = {f"p{n}@example.org": place for n, place in enumerate(PLACES + LARGE)}
    places = {database.add_plan(place, address): address for address, place in by_place.items()}
    addresses = {database.add_plan("Café", address): address for address in ADDRESSES}
    database.verify(*sorted([*ordinary, *places, *addresses], key=lambda plan: plan % 7))
    done = pgherald("run", "--once", env={"PGHERALD_MAIL_TEMPLATES": str(templates)}, check=True)

    failed = {
        int(key): reason
        for key, reason in database.execute("SELECT key, reason FROM pgherald.outbox WHERE state = 'failed'")
    }
    assert set(states(database)) == {"sent", "failed"}
    assert {addresses[plan] for plan in failed if plan in addresses} == {a for a, to in ADDRESSES.items() if to is None}
    assert {places[plan] for plan in failed if plan in places} <= {
        f"p{len(PLACES) + n}@example.org" for n in range(len(LARGE))
    }
    assert {plan: reason for plan, reason in failed.items() if plan in addresses}.keys() == {
        plan for plan, reason in failed.items() if reason == "bad_address"
    }
    assert {reason for plan, reason in failed.items() if plan in places} == {"too_large"}

    # One mail each, to one recipient each, in one transaction each; nothing that a row said was taken for a command.
    smtpd = mail.smtpd
    expected = {f"ordinary{n}@example.org" for n in range(ORDINARY)}
    expected |= {address for plan, address in places.items() if plan not in failed} | {
        to for to in ADDRESSES.values() if to
    }
    assert sorted(mail.recipients) == sorted(expected)
    assert smtpd.mails == smtpd.seen["rcpt"] == smtpd.seen["dot"] == len(mail.messages)
    assert {line.split(" ")[0] for line in smtpd.lines} <= {"EHLO", "MAIL", "RCPT", "DATA", "RSET", "QUIT"}
    assert {message.sender for message in mail.messages} == {"no-reply@example.org"}

    read = {message.recipient: safely_read(message) for message in mail.messages}
    headers = read["ordinary0@example.org"].keys()
    for recipient, message in read.items():
        assert message.keys() == headers, recipient
        # This parser removes the quotes of a local part. test_addresses.py looks at the bytes.
        assert message["To"] == recipient.replace('"', "")
        assert message["Subject"].startswith("Verified:")
        says(message, by_place.get(recipient, "Café"))

    log = done.stderr
    assert "evil@example.org" not in log
    assert all(json.loads(line) for line in log.splitlines())
    assert "evil@example.org" not in database.value("SELECT string_agg(history::text, '') FROM pgherald.outbox")


def safely_read(received: Received) -> "EmailMessage[Any, Any]":
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", received.raw)
    # A non-ASCII address stands in its header as it is (RFC 6532): this parser reads it from text only, and calls it a defect.
    message = email.message_from_string(received.data.decode(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert [part.defects for part in message.walk()] == [[]] * 3
    assert [
        (name, value.defects)
        for part in message.walk()
        for name, value in part.items()
        if value.defects and value.isascii()
    ] == []
    return message


def says(message: "EmailMessage[Any, Any]", place: str) -> None:
    """As text, and as text in HTML, what stands in the row, but for invisible characters and those that no mail can hold."""
    place = without_invisible(place)
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "", place.replace("\r\n", "\n").replace("\r", "\n"))
    text, page = (part.get_content().replace("\r\n", "\n") for part in message.iter_parts())
    # A value that is written against the words' direction stands between two marks.
    assert re.sub("[\u2068\u2069]", "", text) == f"[[{kept}]]\n"
    assert html.unescape(page) == f"<p>[[{kept}]]</p>\n"
    inside = page.removeprefix("<p>[[").removesuffix("]]</p>\n")
    assert not set(inside) & set("<>\"'")


def test_without_smtputf8_only_that_address_fails(
    database: Database, ascii_mail: MailServer, pgherald: Pgherald
) -> None:
    plans = [
        database.add_plan("Café", address)
        for address in ("anna@example.org", "用户@example.org", "jane@münchen.example")
    ]
    database.verify(*plans)
    pgherald("run", "--once", env={"PGHERALD_SMTP_URL": ascii_mail.url}, check=True)
    assert sorted(ascii_mail.recipients) == ["anna@example.org", "jane@xn--mnchen-3ya.example"]
    assert database.execute("SELECT key::bigint, reason FROM pgherald.outbox WHERE state <> 'sent'") == [
        (plans[1], "bad_address")
    ]
