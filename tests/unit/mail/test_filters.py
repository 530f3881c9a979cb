"""The filters, for every reader and whatever the row holds."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from listener.mail.environment import TemplateEnvironment
from listener.mail.filters import nolink, oneline
from listener.mail.reader import reader_of, writing_for
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
        ("fr", None, "6 décembre 2026|19:30 UTC|6 décembre 2026, 19:30 UTC|dimanche, 6. décembre|1 234,5|12,50 €"),
        (None, "../../etc/passwd", "December 6, 2026|7:30 PM UTC|December 6, 2026, 7:30 PM UTC|Sunday, 6. December|1,234.5|€12.50"),
        ("xx", "", "December 6, 2026|7:30 PM UTC|December 6, 2026, 7:30 PM UTC|Sunday, 6. December|1,234.5|€12.50"),
        (7, 7, "December 6, 2026|7:30 PM UTC|December 6, 2026, 7:30 PM UTC|Sunday, 6. December|1,234.5|€12.50"),
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
    assert render("{{ n | currency(c) }} {{ n | currency('') }} {{ n | currency(' usd ') }}", c=None, **row) == "1.234.567,00 1.234.567,00 1.234.567,00 $"  # fmt: skip
    assert render("{{ n | currency(c) }}", c="x<i>9", **row) == "1.234.567,00 X<I>9"
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


def test_times_that_do_not_fit_into_a_zone(render: Any) -> None:
    row = {
        "language": "de",
        "timezone": "Asia/Tokyo",
        "first": "0001-01-01T00:00:00Z",
        "last": datetime.max.replace(tzinfo=UTC),
    }
    assert render("{{ first | date }} {{ last | datetime }} {{ 'infinity' | date }}", **row) == "1. Januar 1 31. Dezember 9999, 23:59 infinity"  # fmt: skip
    summer = {"language": "de", "timezone": "europe/berlin", "at": datetime(2026, 7, 1, 12, tzinfo=UTC)}
    assert render("{{ at | time('full') }}, {{ at | time('z') }}, {{ at | date('EEEE HH:mm') }}", **summer) == "14:00:00 Mitteleuropäische Sommerzeit, MESZ, Mittwoch 14:00"  # fmt: skip
    gap = {"language": "de", "timezone": "Europe/Berlin", "wall": datetime(2026, 3, 29, 2, 30)}
    assert render("{{ wall | datetime }}", **gap) == "29. März 2026, 02:30"


def test_long_numbers_keep_their_digits(render: Any) -> None:
    digits = "1" * 60
    assert render("{{ n | number }}", n=int(digits), language="en").replace(",", "") == digits
    assert render("{{ n | currency('EUR') }}", n=Decimal(digits), language="en").strip("€").replace(",", "") == digits + ".00"  # fmt: skip
    assert render("{{ n | number }} {{ n | number(none) }} {{ -n | number(1) }}", n=1234.5, language="de") == "1.234,5 1.234,5 -1.234,5"  # fmt: skip


@pytest.mark.parametrize(
    ("source", "made"),
    [
        (
            "{{ n | sum }} {{ n | min }} {{ n | max }} {{ n | sort }} {{ n | sort(reverse=true) }}",
            "6 1 3 1, 2, 3 3, 2, 1",
        ),
        ("{{ (n | sort)[3] is none }} {{ [none] | max }}{{ [] | min }}{{ [none] | sum }}", "true "),
        ("{{ rows | sum('v') }} {{ (rows | max(attribute='v')).k }}", "3.5 x"),
        ("{% for each in rows | sort(attribute='v') %}{{ each.v }},{% endfor %}", "1,2.5,,"),
        ("{% for each in rows | sort(attribute='k,v') %}{{ each.k }},{% endfor %}", "x,x,y,"),
        (
            "{% for each in rows | groupby('v') %}{{ each.grouper }}={{ each.list | length }},{% endfor %}",
            "1=1,2.5=1,=1,",
        ),
        ("{% for k, each in rows | groupby('k') %}{{ k }}={{ each | length }},{% endfor %}", "x=2,y=1,"),
        ("{{ {'a': none, 'b': 2, 'c': 1} | dictsort(by='value') }}", "c, 1, b, 2, a"),
        ("{{ {'b': none, 'a': 2} | dictsort }}", "a, 2, b"),
    ],
)
def test_a_null_among_others(render: Any, source: str, made: str) -> None:
    rows = [{"k": "x", "v": 1}, {"k": "y", "v": None}, {"k": "x", "v": 2.5}]
    assert render(source, n=[3, None, 1, 2], rows=rows) == made.strip()


@pytest.mark.parametrize(("value", "line"), [("a\r\nb\u2028c", "a b c"), ("a\n\n\nb", "a b"), (None, ""), (7, "7")])
def test_oneline(value: object, line: str) -> None:
    assert oneline(value) == line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://evil.example/x", "https|://evil|.example/x"),
        ("x@evil.example.", "x|@evil|.example."),
        ("www.evil.example", "www|.evil|.example"),
        ("evil\u3002example", "evil|\u3002example"),
        ("at 12:30. Bye", "at 12|:30. Bye"),
        (None, ""),
    ],
)
def test_nolink(value: object, shown: str) -> None:
    assert nolink(value) == shown.replace("|", "\u200c")
    assert TemplateEnvironment([]).from_string("{{ v | nolink }}").render(v=value) == shown.replace("|", "\u200c")


def test_bdi() -> None:
    page = TemplateEnvironment([], html=True).from_string("{{ v | bdi }}")
    for direction, value, made in [
        ("ltr", "קפה <9>", "<bdi>קפה &lt;9&gt;</bdi>"), ("ltr", "café", "café"), ("rtl", "café", "<bdi>café</bdi>"),
        ("rtl", "9", "<bdi>9</bdi>"), ("rtl", "קפה", "קפה"), ("rtl", None, ""),
    ]:  # fmt: skip
        with writing_for(reader_of({}, "", direction)):
            assert page.render(v=value) == made
