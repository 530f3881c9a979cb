"""Calendar entries: two parsers that are not ours read back what was meant, and no value adds a line or a property."""

import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import icalendar
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.address import parse_mailbox
from listener.errors import BadData, RuleBroken
from listener.mail.calendar import VALUE, InvalidEntry, Publication, entry, make_uid, marked, property_fault, uid_key
from listener.mail.message import Content
from listener.mail.templates import Templates
from listener.printable import HIDDEN

CHANGED = datetime(2026, 11, 22, 18, 30, 7, 123456, tzinfo=UTC)
START = datetime(2026, 12, 31, 18, tzinfo=UTC)
PUBLICATION = Publication("uid@example.org", CHANGED, parse_mailbox("Date Plans <no-reply@example.org>"))
EVENT = "SUMMARY:At {{ place }}!\nDTSTART:{{ starts_at }}\nLOCATION:{{ place }}\nDESCRIPTION:{{ place }}\\n{{ place }}"
EXPECTED = ["SUMMARY", "DTSTART", "DTSTAMP", "UID", "SEQUENCE", "DESCRIPTION", "LOCATION", "ORGANIZER"]
HOSTILE = [
    "x\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nSUMMARY:evil",
    "x\nATTENDEE:mailto:evil@example.org",
    "x\rURL:https://evil.example",
    "x\x0bURL:e\x0cURL:e\x1cURL:e\x85URL:e\u2028URL:e\u2029URL:e",
    "\n URL:https://evil.example",
    "END:VCALENDAR",
    "a:b;c=d,e\\f\\n\\,\\;\\",
    '";CN="x',
    "100%2C %3A",
    "\x02\x03\x02URL:x\x03\n",
    "{{ 7 * 7 }}{% x %}",
    "\u202egro.elpmaxe\u2066\u061c",
    "שלום ليلة",
    "🎉" * 300,
    "x" + "é" * 300,
    "👩‍👩‍👧‍👦" * 40,
    "a" * 10_000,
    " " * 100 + "x",
]


def template(tmp_path: Path, event: str, **others: str) -> Templates:
    folder = tmp_path / "mail"
    folder.mkdir(exist_ok=True)
    for name, text in {"subject.txt": "s", "body.txt": "t", "event.ics": event, **others}.items():
        (folder / f"{name}.j2").parent.mkdir(exist_ok=True)
        (folder / f"{name}.j2").write_text(text, encoding="utf-8")
    return Templates(["mail"], tmp_path)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return template(tmp_path_factory.mktemp("templates"), EVENT)


def render(templates: Templates, **row: Any) -> Content:
    return templates.render("mail", row, PUBLICATION)


def read(calendar: str) -> list[tuple[str, str]]:
    """Return name and value of each line, as RFC 5545 3.1 says: independent of the library that wrote it."""
    assert calendar.endswith("\r\n")
    lines = calendar[:-2].split("\r\n")
    assert not [line for line in lines if "\r" in line or "\n" in line]
    assert max(len(line.encode()) for line in lines) <= 75
    found = re.findall(r"(?m)^([A-Z]+)(?:;[^:\"]*(?:\"[^\"]*\"[^:\"]*)*)?:(.*)$", "\n".join(lines).replace("\n ", ""))
    unescape = {"\\n": "\n", "\\\\": "\\", "\\,": ",", "\\;": ";"}
    return [(name, re.sub(r"\\.", lambda pair: unescape[pair[0]], value)) for name, value in found]


def properties(content: Content) -> dict[str, str]:
    """Return the properties of the one event, and check the frame around it."""
    assert content.calendar_fault is None
    assert content.calendar is not None
    head, body, tail = (lines := read(content.calendar))[:5], lines[5:-2], lines[-2:]
    assert head == [
        ("BEGIN", "VCALENDAR"),
        ("VERSION", "2.0"),
        ("PRODID", "-//pgherald//pgherald//EN"),
        ("METHOD", "PUBLISH"),
        ("BEGIN", "VEVENT"),
    ]
    assert tail == [("END", "VEVENT"), ("END", "VCALENDAR")]
    assert len(dict(body)) == len(body)
    return dict(body)


def shown(text: str) -> str:
    """Return a value as a calendar has it."""
    return HIDDEN.sub("", "\n".join(text.splitlines()))


def assert_says(content: Content, place: str) -> None:
    place = shown(place)
    made = properties(content)
    assert list(made) == [name for name in EXPECTED if name != "LOCATION" or place.strip()]
    expected = {"SUMMARY": f"At {place}!", "DESCRIPTION": f"{place}\n{place}".strip(), "LOCATION": place.strip()}
    assert {name: made.get(name, "") for name in expected} == expected
    [event] = icalendar.Calendar.from_ical(content.calendar or "").walk("VEVENT")
    assert {name: str(event.get(name, "")) for name in expected} == expected
    assert event.errors == []


@pytest.mark.parametrize("place", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_stays_a_value(ordinary: Templates, place: str) -> None:
    assert_says(render(ordinary, place=place, starts_at=START), place)


@given(
    st.lists(
        st.text(max_size=40) | st.sampled_from([*HOSTILE[:-8], "\r\n", "\n", "\n ", "🎉" * 19, "x" * 73]), max_size=6
    )
)
@example(["x" * 70, "🎉"])
@example([r"C:\New\news;\,\\N"])
def test_any_value_stays_a_value(ordinary: Templates, pieces: list[str]) -> None:
    place = f"|{''.join(pieces)}|"
    assert_says(render(ordinary, place=place, starts_at=START), place)


def test_what_the_template_does_not_give(ordinary: Templates) -> None:
    made = properties(render(ordinary, place="Café", starts_at=START))
    assert made["UID"] == "uid@example.org"
    assert made["DTSTAMP"] == "20261122T183007Z"
    assert made["SEQUENCE"] == str(int((CHANGED - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds()))
    assert made["ORGANIZER"] == "mailto:no-reply@example.org"


@pytest.mark.parametrize("changed", [datetime(1, 1, 1, tzinfo=UTC), CHANGED, datetime(9999, 1, 1, tzinfo=UTC)])
def test_a_sequence_has_31_bits_and_rises(changed: datetime) -> None:
    numbers = []
    for at in (changed, changed + timedelta(seconds=1)):
        calendar = entry("DTSTART:20261231", Publication("x", at, PUBLICATION.organizer), None)
        numbers.append(int(dict(read(calendar or ""))["SEQUENCE"]))
    assert 0 <= numbers[0] <= numbers[1] < 2**31
    assert (numbers[0] < numbers[1]) == (changed is CHANGED)


def test_a_uid_is_the_rows_and_reveals_nothing() -> None:
    key = uid_key(b"secret")
    uid = make_uid(key, "rule", "4711", "example.org")
    assert uid == make_uid(key, "rule", "4711", "example.org")
    others = [("rule", "4712", key), ("rule2", "4711", key), ("rule", "4711", uid_key(b"other"))]
    assert uid not in {make_uid(secret, rule, row, "example.org") for rule, row, secret in others}
    assert re.fullmatch(r"[0-9a-f]{32}@example\.org", uid)
    assert make_uid(key, "rule", "\ud800", "example.org")


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (START, "DTSTART:20261231T180000Z"),
        (datetime(2026, 12, 31, 18, 0, 1, 999999, tzinfo=UTC), "DTSTART:20261231T180001Z"),
        (datetime(2026, 12, 31, 18, tzinfo=ZoneInfo("Asia/Tokyo")), "DTSTART:20261231T090000Z"),
        (datetime(2026, 12, 31, 18), "DTSTART:20261231T180000"),
        (date(2026, 12, 31), "DTSTART;VALUE=DATE:20261231"),
        (date(5, 1, 1), "DTSTART;VALUE=DATE:00050101"),
        ("2026-12-31T18:00:00+02:00", "DTSTART:20261231T160000Z"),
        ("20261231T180000Z", "DTSTART:20261231T180000Z"),
        (" 2026-12-31 ", "DTSTART;VALUE=DATE:20261231"),
    ],
)
def test_a_start(ordinary: Templates, start: object, line: str) -> None:
    calendar = render(ordinary, place="x", starts_at=start).calendar or ""
    assert f"\r\n{line}\r\n" in calendar


def test_a_time_without_zone_is_one_of_the_readers_zone(ordinary: Templates) -> None:
    row = {"place": "x", "starts_at": datetime(2026, 7, 1, 18)}
    made = {
        zone: properties(render(ordinary, **row, timezone=zone))["DTSTART"] for zone in ("Europe/Berlin", "UTC", "?")
    }
    assert made == {"Europe/Berlin": "20260701T160000Z", "UTC": "20260701T180000Z", "?": "20260701T180000"}


@pytest.mark.parametrize("start", [None, "", " "])
def test_without_a_start_there_is_no_entry(ordinary: Templates, start: object) -> None:
    content = render(ordinary, place="x", starts_at=start)
    assert (content.calendar, content.calendar_fault) == (None, None)


@pytest.mark.parametrize(
    ("lines", "row", "fault"),
    [
        ("DTEND:{{ x }}", {"x": START}, "DTEND is not after DTSTART"),
        ("DTEND:{{ x }}", {"x": START - timedelta(days=1)}, "DTEND is not after DTSTART"),
        ("DTEND:{{ x }}", {"x": date(2027, 1, 1)}, "DTSTART and DTEND must both be days"),
        ("DTEND:{{ x }}", {"x": datetime(2027, 1, 1)}, "DTSTART and DTEND must both be days"),
        ("DTEND:{{ x }}", {"x": "tomorrow\r\nURL:x"}, "DTEND is neither a day nor a time"),
        ("DTEND:{{ x }}", {"x": "99999-12-31"}, "DTEND is neither a day nor a time"),
        ("DTEND:{{ x }}", {"x": "0001-01-01T00:00:00+02:00"}, "DTEND is outside the years 1 to 9999 in UTC"),
        ("DURATION:{{ x }}", {"x": "long"}, "DURATION is not a duration such as PT90M"),
        ("DURATION:{{ x }}", {"x": "P99999999999D"}, "DURATION is not a duration such as PT90M"),
        ("DURATION:{{ x }}", {"x": timedelta(hours=-1)}, "DURATION is not longer than zero"),
        ("DURATION:PT2H\nDTEND:{{ x }}", {"x": START + timedelta(1)}, "there are both DTEND and DURATION"),
        ("{% for n in (1, 2) %}\nSUMMARY:{{ x }}\n{% endfor %}", {"x": "a"}, "the template prints SUMMARY twice"),
        ("{% if x %}URL:{% endif %}{{ x }}", {"x": 0}, "the template prints a line that is not a property"),
    ],
)
def test_bad_values_leave_the_entry_out(tmp_path: Path, lines: str, row: dict[str, Any], fault: str) -> None:
    content = render(template(tmp_path, f"DTSTART:{{{{ starts_at }}}}\n{lines}"), starts_at=START, **row)
    assert content.calendar is None
    assert (content.calendar_fault or "").startswith(fault)
    assert content.text == "t\n"


@pytest.mark.parametrize(
    ("start", "duration", "line"),
    [
        (START, timedelta(hours=1, minutes=30), "DURATION:PT1H30M"),
        (START, "PT90M", "DURATION:PT1H30M"),
        (date(2026, 12, 31), timedelta(days=2), "DURATION:P2D"),
        (date(2026, 12, 31), timedelta(hours=2), None),
        (START, None, ""),
    ],
)
def test_a_duration(tmp_path: Path, start: date, duration: object, line: str | None) -> None:
    content = render(template(tmp_path, "DTSTART:{{ at }}\nDURATION:{{ length }}"), at=start, length=duration)
    if line is None:
        assert content.calendar_fault == "DURATION must be whole days, because DTSTART is a day"
    else:
        assert line in (content.calendar or "")
        assert ("DURATION" in (content.calendar or "")) == bool(line)


@pytest.mark.parametrize(
    ("line", "value", "made"),
    [
        ("URL:{{ x }}", "https://example.org/a,b;c?d=%20", "https://example.org/a,b;c?d=%20"),
        ("URL:{{ x }}", "https://example.org/\r\nX:é \"", "https://example.org/%0AX:%C3%A9%20%22"),
        ("URL:{{ x }}", "javascript:alert(1)", None),
        ("URL:{{ x }}", None, None),
        ("ORGANIZER;CN=\"The; Mill\":mailto:{{ x }}", "a@example.org", "mailto:a@example.org"),
        ("ORGANIZER:{{ x }}", "https://example.org", "mailto:no-reply@example.org"),
        ("summary;LANGUAGE=de:a\\, b\\nc {{ x }}", "\\n", "a, b\nc \\n"),
        ("STATUS:CONFIRMED", None, "CONFIRMED"),
        ("SUMMARY:{{ x }}{% if x %} yes{% endif %}", "a", "a yes"),
    ],
)  # fmt: skip
def test_a_property(tmp_path: Path, line: str, value: str | None, made: str | None) -> None:
    found = properties(render(template(tmp_path, f"{line}\nDTSTART:20261231\n"), x=value))
    assert found.get(re.split("[;:]", line)[0].upper()) == made


def test_parameters_are_the_templates(tmp_path: Path) -> None:
    content = render(template(tmp_path, 'DTSTART:20261231\nORGANIZER;CN="The; Mill":mailto:a@example.org'))
    assert '\r\nORGANIZER;CN="The; Mill":mailto:a@example.org\r\n' in (content.calendar or "")


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("BEGIN:VCALENDAR\nDTSTART:{{ x }}", "event.ics.j2, line 1: pgherald writes BEGIN itself; remove the line"),
        ("DTSTART:{{ x }}\nUID:{{ x }}", "event.ics.j2, line 2: pgherald writes UID itself; remove the line"),
        ("DTSTART:{{ x }}\n{% if x %}\nATTENDEE:x\n{% endif %}", "line 3: ATTENDEE is not supported; write only SUMMARY"),
        ("DTSTART:{{ x }}\nSUMMARY;LANGUAGE={{ x }}:x", "line 2: the line is not a property; write NAME:value"),
        ("DTSTART:{{ x }}\n{{ x }}:x", "line 2: the line is not a property"),
        ("DTSTART:{{ x }}\n\nhello", "line 3: the line is not a property"),
        ("DTSTART;TZID=Europe/Berlin:{{ x }}", "line 1: DTSTART takes no parameters"),
        ("SUMMARY:{{ x }}", "event.ics.j2: the event has no DTSTART; write DTSTART:{{ … }}"),
        ("DTSTART:{{ x }", "event.ics.j2, line 1: "),
        ('{% extends "mail/base.ics.j2" %}{% block b %}UID:x{% endblock %}', "event.ics.j2, line 1: pgherald writes UID"),
        ('{% include "mail/more.ics.j2" %}', "more.ics.j2, line 2: pgherald writes END itself"),
    ],
)  # fmt: skip
def test_a_template_that_is_wrong_for_every_row(tmp_path: Path, event: str, error: str) -> None:
    base = {"base.ics": "DTSTART:{{ x }}\n{% block b %}{% endblock %}\n", "more.ics": "DTSTART:{{ x }}\nEND:VEVENT"}
    with pytest.raises(RuleBroken) as caught:
        template(tmp_path, event, **base)
    assert error in str(caught.value)


def test_an_error_in_it_is_one_of_the_message(tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        render(template(tmp_path, "DTSTART:{{ 1 // x }}"), x=0)
    assert str(caught.value) == "ZeroDivisionError in mail/event.ics.j2, line 1"
    with pytest.raises(RuleBroken, match=re.escape("uses {{ x }}")):
        render(template(tmp_path, "DTSTART:{{ x }}"))


def test_blocks_macros_and_sets_print_values(tmp_path: Path) -> None:
    event = (
        '{% extends "mail/base.ics.j2" %}{% block place %}{% set y = x | oneline %}'
        "{% macro m(v) %}[{{ v }}]{% endmacro %}LOCATION:{{ m(y) }} {{ super() }}{% endblock %}"
    )
    base = "DTSTART:20261231\n{% block place %}{{ x }}{% endblock %}\n"
    made = properties(render(template(tmp_path, event, **{"base.ics": base}), x="a;\nURL:b"))
    assert made["LOCATION"] == "[a; URL:b] a;\nURL:b"
    assert "URL" not in made


def test_an_empty_file_makes_no_entry(tmp_path: Path) -> None:
    content = render(template(tmp_path, "{# nothing #}\n"))
    assert (content.calendar, content.calendar_fault) == (None, None)


def test_a_translation_has_its_own_or_the_defaults(tmp_path: Path) -> None:
    others = {f"{language}/{part}.txt": "x" for language in ("de", "fr") for part in ("subject", "body")}
    templates = template(
        tmp_path, "DTSTART:20261231\nSUMMARY:en", **others, **{"de/event.ics": "DTSTART:20261231\nSUMMARY:de"}
    )
    assert templates.has_calendar("mail")
    made = {language: properties(render(templates, language=language))["SUMMARY"] for language in ("de-AT", "fr", "en")}
    assert made == {"de-AT": "de", "fr": "en", "en": "en"}


def test_marks_are_in_no_value() -> None:
    assert marked("\x02a\x03") == "\x02a\x03"
    assert property_fault(f"SUMMARY:{VALUE}") is None
    with pytest.raises(InvalidEntry):
        entry(marked("SUMMARY:x"), PUBLICATION, None)


@pytest.mark.slow
def test_the_library_is_loaded_only_for_a_template_that_has_an_entry() -> None:
    code = "import sys; from listener.mail import composer, templates; templates.Templates(['send_test']); print('icalendar' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
