"""A date that is verified twice is one entry in the reader's calendar, and the second email replaces it."""

from pathlib import Path

import icalendar

from listener.config.rules import default_rules
from tests.support import wait_until
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import Received

RULE = "dateplan_verified"
HOSTILE = "Café 🎉\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nATTENDEE:mailto:evil@example.org"


def calendar_of(received: Received) -> icalendar.Calendar | None:
    found = [part for part in received.email.walk() if part.get_content_type() == "text/calendar"]
    return icalendar.Calendar.from_ical(found[0].get_content()) if found else None


def test_one_entry_a_row(database: Database, mail: MailServer, pgherald: Pgherald, tmp_path: Path) -> None:
    database.execute("ALTER TABLE public.plan ADD starts_at timestamptz, ADD ends_at timestamptz")
    lookup = default_rules()[RULE].lookup.replace(", p.place", ", p.place, p.starts_at, p.ends_at")
    config = tmp_path / "pgherald.toml"
    config.write_text(
        f'[rules.{RULE}]\ntable = "public.dateplan"\nbecomes = "VE"\ntemplate = "{RULE}"\nlookup = """{lookup}"""\n',
        encoding="utf-8",
    )
    dated = database.add_plan(HOSTILE, "dated@example.org")
    database.add_plan("no date", "undated@example.org")
    database.add_plan("wrong", "wrong@example.org")
    database.execute("UPDATE public.plan SET starts_at = '2026-12-31 18:00+00' WHERE place <> 'no date'")
    database.execute("UPDATE public.plan SET ends_at = '2026-12-31 17:00+00' WHERE place = 'wrong'")
    with pgherald.daemon(env={"PGHERALD_CONFIG": str(config)}) as daemon:
        database.execute("UPDATE public.dateplan SET status = 'VE'")
        mail.wait_for(3)
        database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (dated,))
        # A SEQUENCE counts seconds.
        over = "SELECT clock_timestamp() > max(captured_at) + interval '1 second' FROM pgherald.outbox"
        wait_until(lambda: database.value(over))
        database.verify(dated)
        daemon.wait_event("part_left_out", remark="the calendar entry is left out: DTEND is not after DTSTART")
        first, again = (found for found in mail.wait_for(4) if found.recipient == "dated@example.org")
    entries = []
    for received in (first, again):
        calendar = calendar_of(received)
        assert calendar is not None
        assert calendar["method"] == "PUBLISH"
        [event] = calendar.walk("VEVENT")
        assert "ATTENDEE" not in event
        assert str(event["location"]) == " ".join(HOSTILE.splitlines())
        entries.append(event)
    assert entries[0]["uid"] == entries[1]["uid"]
    assert entries[0]["sequence"] < entries[1]["sequence"]
    assert {found.recipient for found in mail.messages if calendar_of(found) is None} == {
        "undated@example.org",
        "wrong@example.org",
    }
