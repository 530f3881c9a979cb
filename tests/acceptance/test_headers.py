"""The headers of an operator and of a row, from the file and the lookup to the mail server."""

import json
from pathlib import Path

from listener.config.rules import default_rules
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer

RULE = "dateplan_verified"
# What the lookup makes of each place: the name before the bar, and the addresses after it.
LOOKUP = default_rules()[RULE].lookup.replace(
    ", p.place",
    ", p.place, split_part(p.place, '|', 1) AS from_name, string_to_array(split_part(p.place, '|', 2), ',') AS reply_to",
)


def test_one_message_with_all_headers_and_one_of_a_hostile_row(
    database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path
) -> None:
    (tmp_path / "pgherald.toml").write_text(
        f'''
[mail]
reply_to = "Help <help@example.org>"
unsubscribe_mailto = "stop@example.org"
[mail.headers]
X-PM-Message-Stream = "outbound"
X-MSYS-API = '{{"metadata": {{"note": "{"x y " * 500}"}}}}'
[rules.{RULE}]
table = "public.dateplan"
becomes = "VE"
template = "{RULE}"
unsubscribe = "application"
lookup = """{LOOKUP}"""
''',
        encoding="utf-8",
    )
    good = database.add_plan("Müller, Anna|Ben <ben@Bücher.example>,office@example.org", "good@example.org")
    hostile = database.add_plan("x@bank.example\r\nBcc: a|b@example.org\r\nBcc: c@example.org", "bad@example.org")
    database.verify(good, hostile, database.add_plan("|", "plain@example.org"))
    done = pgherald("run", "--once", env={"PGHERALD_CONFIG": str(tmp_path / "pgherald.toml")}, check=True)
    received = {message.recipient: message for message in mail.wait_for(3)}
    parsed = {recipient: message.email for recipient, message in received.items()}
    first, bad, plain = (parsed[f"{name}@example.org"] for name in ("good", "bad", "plain"))
    assert str(first["From"]) == '"Müller, Anna" <no-reply@example.org>'
    assert str(first["Reply-To"]) == "Ben <ben@xn--bcher-kva.example>, office@example.org"
    for message in (bad, plain):
        assert (message["From"], message["Reply-To"]) == (
            "Date Plans <no-reply@example.org>",
            "Help <help@example.org>",
        )
    for message in parsed.values():
        assert message.keys() == first.keys()
        assert message["X-PM-Message-Stream"] == "outbound"
        assert json.loads(message["X-MSYS-API"])["metadata"]["note"] == "x y " * 500
        assert message["List-Unsubscribe"].startswith("<mailto:stop@example.org?subject=unsubscribe-v1")
        assert not [value for value in message.values() if value.defects]
    assert {message.sender for message in received.values()} == {"no-reply@example.org"}
    entries = [json.loads(line) for line in done.stderr.splitlines() if '"part_left_out"' in line]
    assert [entry["remark"].partition(":")[0] for entry in entries] == ["from_name is left out", "reply_to is left out"]
    assert {entry["level"] for entry in entries} == {"warning"}
    assert "bank.example" not in done.stderr

    shown = pgherald(
        "preview", RULE, "--key", hostile, env={"PGHERALD_CONFIG": str(tmp_path / "pgherald.toml")}, check=True
    )
    assert shown.stdout.startswith(
        "From: Date Plans <no-reply@example.org>\nReply-To: Help <help@example.org>\nTo: bad@"
    )
    assert shown.stderr.count("note: ") == 2
