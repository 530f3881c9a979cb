"""`strftime`, which templates call by habit, writes for the reader."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pytest

from listener.mail.environment import TemplateEnvironment
from listener.mail.reader import reader_of, writing_for
from listener.mail.values import as_value

AT = datetime(2026, 12, 6, 23, 30, tzinfo=UTC)


def render(source: str, language: str, zone: str | None, **row: Any) -> str:
    template = TemplateEnvironment([]).from_string(source)
    with writing_for(reader_of({"language": language, "timezone": zone}, "", "ltr")):
        made = template.render({name: as_value(value) for name, value in row.items()})
    return made.replace("\u202f", " ").replace("\xa0", " ")


@pytest.mark.parametrize("source", ["{{ at.strftime('FORMAT') }}", "{{ '{:FORMAT}'.format(at) }}"])
@pytest.mark.parametrize(
    ("language", "zone", "format", "text"),
    [
        ("de", "Europe/Berlin", "%A, %d. %B %H:%M", "Montag, 07. Dezember 00:30"),
        ("de", None, "%A, %d. %B %H:%M %Z", "Sonntag, 06. Dezember 23:30 UTC"),
        ("pl", "UTC", "%d %B, %a, %b", "06 grudnia, niedz., gru"),
        ("en", "America/New_York", "%A %-d %B %I:%M %p", "Sunday 6 December 06:30 PM"),
        ("de", "UTC", "%x | %c", "06.12.26 | 06.12.2026, 23:30:00"),
        ("de", "UTC", "%%A %Y %j", "%A 2026 340"),
        ("ar", "UTC", "%A %H", "\u2068الأحد 23\u2069"),
    ],
)
def test_a_moment(source: str, language: str, zone: str | None, format: str, text: str) -> None:
    assert render(source.replace("FORMAT", format), language, zone, at=AT) == text


def test_other_values() -> None:
    row = {"d": date(2026, 12, 6), "t": time(19, 30), "wall": datetime(2026, 12, 6, 23, 30)}
    assert render("{{ d.strftime('%A %p %c') }}", "de", "Asia/Tokyo", **row) == "Sonntag AM 06.12.2026"
    assert render("{{ t.strftime('%H:%M %X %A') }}", "de", "Asia/Tokyo", **row) == "19:30 19:30:00 Monday"
    assert render("{{ wall.strftime('%A %H') }}", "de", "Asia/Tokyo", **row) == "Sonntag 23"
    assert render("{{ (d + (wall - wall)).strftime('%a') }} {{ wall.date().strftime('%A') }}", "fr", None, **row) == "dim. dimanche"  # fmt: skip
    assert render("{{ d.ctime() }} {{ wall.ctime() }}", "de", None, **row) == "06.12.2026 06.12.2026, 23:30:00"


def test_a_value_stays_what_it_is() -> None:
    assert as_value(AT) == AT
    assert as_value(AT.astimezone(timezone(timedelta(hours=5)))).tzinfo is UTC
    assert as_value(date(2026, 12, 6)) == date(2026, 12, 6)
    assert as_value(AT).strftime("%A") == "Sunday", "without a reader"
    last = datetime.max.replace(tzinfo=UTC)
    assert render("{{ at.strftime('%Y %A') }}", "de", "Asia/Tokyo", at=last) == "9999 Freitag"
