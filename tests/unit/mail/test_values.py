"""What a template prints of each kind of value, wherever it stands."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_interface, ip_network
from typing import Any
from uuid import UUID

import pytest
from jinja2.filters import FILTERS
from jinja2.runtime import Undefined
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from listener.mail.environment import TemplateEnvironment
from listener.mail.values import NULL, as_json, as_value

TEXT, HTML = TemplateEnvironment([]), TemplateEnvironment([], html=True)
# What a filter needs besides its value.
ARGUMENTS = {
    "attr": '("x")', "batch": "(2)", "groupby": '("x")', "slice": "(2)", "replace": '("a", "b")', "format": "(1)",
    "map": '("upper")', "rejectattr": '("x")', "selectattr": '("x")', "join": '(", ")', "default": '("")', "d": '("")',
}  # fmt: skip


def render(source: str, environment: TemplateEnvironment = TEXT, **values: Any) -> str:
    row = {name: as_value(value) for name, value in values.items()}
    return environment.from_string(source).render(row)


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"tojson"}))
@pytest.mark.parametrize("value", ["v", "none", "o.v", "o['v']", "a[0]", "(v if true)", "o.get('v')", "v.name", "m(v)"])
def test_null_behind_a_filter_prints_nothing(name: str, value: str) -> None:
    source = "{% macro m(x) %}{{ x | " + name + ARGUMENTS.get(name, "") + " }}{% endmacro %}"
    source += "[{{ " + (value if value == "m(v)" else f"{value} | {name}{ARGUMENTS.get(name, '')}") + " }}]"
    for environment in (TEXT, HTML):
        assert render(source, environment, v=None, o={"v": None}, a=[None]) == "[]"


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("{{ v ~ 'x' ~ none }}", "x"),
        ("{{ 'Dear ' + v }}", "Dear "),
        ("{{ '%s' % v }}|{{ '%d%%' % v }}|{{ '%s %.2f' % ('x', v) }}|{{ '%(p)d' % {'p': v} }}", "|%|x |"),
        ("{{ '%s-%.2f' | format(v, 1.5) }}|{{ '%(p)d' | format(p=v) }}", "-1.50|"),
        ("{{ '{} {:.2f}'.format(v, v) }}", " "),
        ("{{ v + 1 }}{{ 1 - v }}{{ v * 2 }}{{ 2 * v }}{{ 1 / v }}{{ v // 2 }}{{ v ** 2 }}{{ -v }}{{ v % 2 }}", ""),
        ("{{ v[0] }}{{ v[0:2] }}{{ v.a.b }}{{ v.strftime('%H') }}{{ v['a'].upper() }}", ""),
        ("{% for x in v %}{{ x }}{% endfor %}{% for k, w in v.items() %}{{ k }}{% endfor %}", ""),
        ("{% for x in a %}<{{ x ~ '' }}>{% endfor %}", "<><1>"),
        ("{{ a | map('upper') | join('-') }}|{{ a | join('-') }}", "-1|-1"),
        ("{{ v or 'there' }} {{ v | default('there', true) }}", "there there"),
        ("{{ 'none' if v is none }} {{ 'none' if v == none }} {{ 'none' if none == v }}", "none none none"),
        ("{{ 'x' if v is not none or v != none or v }}", ""),
        ("{% if v is defined and v is not string and v is not number and v is not iterable %}ok{% endif %}", "ok"),
        ("{% if v > 1 or v < 1 or v >= 'a' or v == '' or '' == v or v == 0 %}x{% endif %}", ""),
        ("{{ 'in' if v in a }}{{ 'in' if none in a }}", "inin"),
        ("{% set x = v %}{% set y %}{{ v }}{% endset %}{{ x | upper }}{{ y | upper }}", ""),
        ("{% macro m(x=none) %}{{ x | upper }}{% endmacro %}{{ m() ~ m(none) }}", ""),
        ("{{ v | tojson }}{{ o | tojson }}", 'null{"v": null}'),
        ("{{ o }}", '{"v": null}'),
    ],
)
def test_null_anywhere_else(source: str, made: str) -> None:
    assert render(source, v=None, o={"v": None}, a=[None, 1]).replace("\\u0022", '"') == made
    assert "None" not in render(source, HTML, v=None, o={"v": None}, a=[None, 1])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (1.0, "1"), (1e16, "10000000000000000"), (1e-7, "0.0000001"), (0.1, "0.1"),
        (float("nan"), "NaN"), (float("-inf"), "-Infinity"), (-0.5, "-0.5"), (10**20, "1" + "0" * 20),
        (Decimal("12.50"), "12.50"), (Decimal("1E+16"), "1" + "0" * 16), (Decimal("1E-9"), "0.000000001"),
        (Decimal("NaN"), "NaN"), (Decimal("Infinity"), "Infinity"),
        (["a", "b"], "a, b"), ([], ""), ([[1, 2], [3, None]], "1, 2, 3"), ([True, 1e16], "true, 10000000000000000"),
        ({"a": 1, "b": [True, None, "é\""]}, '{"a": 1, "b": [true, null, "é\\""]}'), ({}, "{}"),
        (b"ab", "\\x6162"), (timedelta(days=1, hours=2), "1 day 02:00:00"), (timedelta(hours=-1), "-01:00:00"),
        (timedelta(days=2), "2 days"), (timedelta(0), "00:00:00"), (timedelta(microseconds=1500), "00:00:00.0015"),
        (datetime(2026, 12, 6, 20, tzinfo=timezone(timedelta(hours=1))), "2026-12-06 19:00:00+00:00"),
        (datetime(2026, 12, 6, 20), "2026-12-06 20:00:00"), (date(1, 1, 1), "0001-01-01"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "9999-12-31 23:59:59.999999-01:00"),
        (time(19, 30, tzinfo=timezone(timedelta(hours=1))), "19:30:00+01:00"),
        (Range(1, 5), "[1,5)"), (Range(Decimal("1E+3"), None, "()"), "(1000,)"), (Range(empty=True), "empty"),
        (Range(None, date(2026, 12, 6), "(]"), "(,2026-12-06]"), (Multirange([Range(1, 2), Range(5)]), "{[1,2), [5,)}"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"), (ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"), (("a", None, True), "a, true"), (-0.0, "-0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "source", ["{{ v }}", "{{ v ~ '' }}", "{{ v | string }}", "{{ '%s' % v }}", "{{ '{}'.format(v) }}", "{{ v | oneline }}", "{{ [v] | join }}", "{{ {'v': v}.v }}"]
)  # fmt: skip
def test_no_value_prints_as_python_does(value: Any, text: str, source: str) -> None:
    assert render(source, v=value) == text


@pytest.mark.parametrize("environment", [TEXT, HTML])
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ a | map('upper') }}|{{ a | unique }}|{{ a | reverse }}|{{ a | batch(2) }}|{{ a | select }}", "B, A|b, A|A, b|b, A|b, A"),
        ("{{ o.items() }}|{{ o.keys() }}|{{ o.values() }}|{{ o | items }}|{{ range(3) }}", "k, 1|k|1|k, 1|0, 1, 2"),
        ("{{ a | map('nolink') }} {{ ['a.b'] | map('nolink') | join }}", "b, A a\u200c.b"),
        ("{{ at | pprint }} {{ n | pprint }} {{ true | pprint(true) }}", "2026-12-06 19:30:00+00:00 1000 true"),
        ("{{ true }} {{ {1: false} }} {{ (1, none) }} {{ 1e20 }} {{ 0.5 }}", "true {1: false} 1 100000000000000000000 0.5"),
        ("{{ '{:>6}|{:6}|{:>14}'.format(true, [1, 2], d) }}", "  true|1, 2  |1 day 02:00:00"),
        ("{% for x in a | map('upper') %}{{ loop.index }}{{ x }}{{ loop.last }}{% endfor %}", "1Bfalse2Atrue"),
        ("{% macro m(l) %}{{ l.index }}{% endmacro %}{% for x in range(3) %}{{ m(loop) }}{{ loop.last }} {% endfor %}", "1false 2false 3true "),
        ("{{ r.lower }}-{{ r.upper }}-{{ r.upper is none }}", "2026-12-06 19:30:00+00:00--true"),
    ],
)  # fmt: skip
def test_no_expression_prints_as_python_does(environment: TemplateEnvironment, source: str, text: str) -> None:
    at = datetime(2026, 12, 6, 19, 30, tzinfo=UTC)
    row = {"a": ["b", None, "A"], "o": {"k": 1}, "at": at, "n": Decimal("1E+3"), "r": Range(at, None)}
    made = render(source.replace("a |", "a | reject('none') |"), environment, d=timedelta(days=1, hours=2), **row)
    assert made.replace("&#34;", "").replace('"', "") == text


def test_numbers_of_all_types_can_be_calculated_with_each_other() -> None:
    row = {"p": Decimal("12.50"), "f": 0.1, "i": 3, "t": timedelta(hours=3), "nan": float("nan")}
    assert render("{{ p * 1.19 }} {{ f + p }} {{ i / 2 * p }} {{ f + 0.2 }} {{ f == 0.1 }}", **row) == "14.8750 12.60 18.750 0.3 true"  # fmt: skip
    assert render("{{ t * 1.5 }} {{ 0.5 * t }} {{ t / 2 }} {{ t / 0.5 }}", **row) == "04:30:00 01:30:00 01:30:00 06:00:00"  # fmt: skip
    assert render("{{ 2 ** 0.5 > 1 }} {{ 2.567 | round(2) }} {{ '%.2f' % f }} {{ f | number }}", **row) == "true 2.57 0.10 0.1"  # fmt: skip
    assert render("{{ nan > 1 or nan < 1 or 1 >= nan or nan <= nan }} {{ nan + 1 }}", **row) == "false NaN"


def test_what_an_expression_makes_prints_the_same() -> None:
    assert render("{{ 1 == 1 }} {{ (1 == 2) ~ '' }} {{ (1 == 1) | upper }}") == "true false TRUE"
    assert (
        render("{{ p * 2 }} {{ (p * 2) ~ '' }} {{ [p] + [none] }}", p=Decimal("1E+8"))
        == "200000000 200000000 100000000"
    )


def test_tests_see_the_value_of_the_driver() -> None:
    assert (
        render("{{ v is boolean }} {{ v is true }} {{ v is integer }} {{ v == true }}", v=True)
        == "true true false true"
    )
    assert render("{{ 'x' if not v }}{{ v is false }}", v=False) == "xtrue"


def test_invisible_characters_of_a_value_are_dropped() -> None:
    hidden = "a\u202eb\u200bc\u2066d\ufeffe\u00adf\u061cg\U000e0041h\u2060"
    assert render("{{ v }}{{ a[0] }}{{ o.k }}", v=hidden, a=[hidden], o={"k": hidden}) == "abcdefgh" * 3
    family = "👨\u200d👩\u200d👧 می\u200cخواهم"
    assert render("{{ v }}", v=family) == family


def test_an_undefined_name_stays_an_error() -> None:
    assert isinstance(TEXT.undefined(name="x"), Undefined)
    assert as_json(NULL) == "null"
    assert as_value(datetime(2026, 1, 1)) == datetime(2026, 1, 1)
    assert as_value(datetime(2026, 1, 1, tzinfo=UTC)).tzinfo is UTC
