"""Dates, times, numbers and money as the reader of a message writes them, whatever the row holds."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from listener.mail.reader import current_reader, reader_of
from listener.mail.templates import Templates

AT = datetime(2026, 12, 6, 19, 30, tzinfo=UTC)
MACRO = "{% macro day(at) %}{{ at | date }}{% endmacro %}"


@pytest.fixture
def render(tmp_path: Path) -> Any:
    def render(source: str, **row: Any) -> str:
        (tmp_path / "mail").mkdir(exist_ok=True)
        (tmp_path / "macros").write_text(MACRO, encoding="utf-8")
        for part, text in (("subject.txt", "s"), ("body.txt", source), ("body.html", source)):
            (tmp_path / "mail" / f"{part}.j2").write_text(text, encoding="utf-8")
        content = Templates(["mail"], tmp_path).render("mail", row)
        assert unescape(content.html or "") == content.text
        # The CLDR has narrow spaces that do not break.
        return content.text.removesuffix("\n").replace("\u202f", " ").replace("\xa0", " ")

    return render


@pytest.mark.parametrize(
    ("language", "zone", "made"),
    [
        ("de", "Europe/Berlin", "6. Dezember 2026|20:30|6. Dezember 2026, 20:30|Sonntag, 6. Dezember|1.234,5|12,50 €"),
        ("de_CH", "Asia/Tokyo", "7. Dezember 2026|04:30|7. Dezember 2026, 04:30|Montag, 7. Dezember|1'234.5|EUR 12.50"),
        ("fr", None, "6 décembre 2026|19:30|6 décembre 2026, 19:30|dimanche, 6. décembre|1 234,5|12,50 €"),
        (None, "../../etc/passwd", "December 6, 2026|7:30 PM|December 6, 2026, 7:30 PM|Sunday, 6. December|1,234.5|€12.50"),
        ("xx", "", "December 6, 2026|7:30 PM|December 6, 2026, 7:30 PM|Sunday, 6. December|1,234.5|€12.50"),
        (7, 7, "December 6, 2026|7:30 PM|December 6, 2026, 7:30 PM|Sunday, 6. December|1,234.5|€12.50"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [AT, "2026-12-06T19:30:00+00:00"])
def test_a_reader_reads_their_own_forms(render: Any, language: Any, zone: Any, made: str, at: Any) -> None:
    source = (
        "{{ at | date }}|{{ at | time }}|{{ at | datetime }}|{{ at | date('EEEE, d. MMMM') }}|"
        "{{ n | number }}|{{ p | currency('EUR') }}"
    )
    assert render(source, at=at, n=Decimal("1234.5"), p="12.5", language=language, timezone=zone) == made


def test_other_forms(render: Any) -> None:
    row = {"language": "de", "timezone": "America/New_York", "at": AT, "wall": datetime(2026, 1, 2, 3, 4), "n": 1234567}
    assert render("{{ at | date('short') }} {{ at | time('HH') }} {{ wall | datetime('short') }}", **row) == "06.12.26 14 02.01.26, 03:04"  # fmt: skip
    assert render("{{ d | date }} {{ d | datetime }} {{ t | time }}", d=date(2026, 1, 2), t=time(3, 4), **row) == "2. Januar 2026 2. Januar 2026 03:04"  # fmt: skip
    assert render("{{ n | number }} {{ n | number(2) }} {{ 0.5 | number(0) }} {{ n | currency('JPY') }}", **row) == "1.234.567 1.234.567,00 0 1.234.567 ¥"  # fmt: skip
    assert render("{{ n | currency(c) }} {{ n | currency(x) }}", c=None, x="<b>"[:0], **row).startswith("1.234.567,00 ")
    assert render("{% import 'macros' as m %}{{ m.day(at) }}", **row) == "6. Dezember 2026"


@pytest.mark.parametrize("value", ["x", "", "9" * 5000, "1e999999", "NaN", [1], {1: 2}, True])
def test_what_is_no_time_and_no_number_stays_as_it_is(render: Any, value: Any) -> None:
    plain = render("{{ v }}", v=value)
    for name in ("date", "time", "datetime", "number", "currency('EUR')"):
        assert render("{{ v | " + name + " }}", v=value) == plain


def test_null_has_no_form(render: Any) -> None:
    assert (
        render("{{ v | date }}{{ v | time }}{{ v | datetime }}{{ v | number }}{{ v | currency('EUR') }}", v=None) == ""
    )


def test_there_is_no_reader_between_messages(render: Any) -> None:
    render("x")
    assert current_reader() is None
    assert reader_of({"language": "ar-EG"}, "ar").direction == "rtl"
    assert reader_of({"language": "ar-EG"}, "").direction == "ltr"
