"""Templates: the shipped mail word by word, what breaks a rule at the start, and what breaks one row."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.errors import BadData, RuleBroken
from listener.mail.message import Content
from listener.mail.templates import Templates
from listener.transport.base import MAX_MESSAGE_BYTES

Write = Callable[..., Path]
SHIPPED = Templates(["dateplan_verified"])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a template's files (and others, by path) in an operator's directory."""

    def write(subject: str | None = "s", text: str | None = "t", html: str | None = None, **others: str) -> Path:
        mail = {"mail/subject.txt.j2": subject, "mail/body.txt.j2": text, "mail/body.html.j2": html}
        for name, source in {**mail, **others}.items():
            if source is not None:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(source, encoding="utf-8")
        return tmp_path

    return write


def _render(directory: Path, **context: object) -> Content:
    return Templates(["mail"], directory).render("mail", context)


# The shipped mail


def _shipped(place: object) -> Content:
    return SHIPPED.render(
        "dateplan_verified",
        {"key": "7", "current": "VE", "email": "jane@example.org", "consent": True, "place": place},
    )


def test_the_seeds_words_are_kept() -> None:
    content = _shipped("Café Ümlaut")
    sentence = "Congratulations! Your date plan at Café Ümlaut is now verified."
    assert content.subject == "Your DatePlan is now verified 🎉"
    assert content.text.splitlines()[0] == sentence
    assert sentence in (content.html or "")


def test_the_shipped_mail_takes_only_the_place() -> None:
    assert SHIPPED.variables("dateplan_verified", translated=True) == {"place"}


def test_the_text_as_a_person_reads_it() -> None:
    assert _shipped("Chez <Jane> & Co.").text.split("\n") == [
        "Congratulations! Your date plan at Chez <Jane> & Co. is now verified.",
        "",
        "All set. Have a lovely time!",
        "",
        "-- ",
        "You get this mail because e-mail notifications are switched on in your account.",
        "",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_a_place_begins_no_line_of_its_own(end: str) -> None:
    lines = _shipped(f"here{end}https://evil.example/").text.splitlines()
    assert lines[0] == "Congratulations! Your date plan at here https://evil.example/ is now verified."
    assert len(lines) == len(_shipped("here").text.splitlines())


@given(st.text())
def test_a_place_becomes_no_markup(place: str) -> None:
    html = _shipped(place).html
    assert html is not None
    assert [tag for tag in _Tags(html).tags if tag != ("bdi", {})] == _Tags(_shipped("x").html or "").tags


@pytest.mark.parametrize(
    "place",
    ["<script>alert(1)</script>", "</title><img src=x onerror=y>", '" onload="x', "' x='", "{{ 7 * 7 }}", "&lt;b&gt;"],
)
def test_a_place_is_shown_as_it_is(place: str) -> None:
    shown = "".join(_Tags(_shipped(place).html or "").texts)
    assert f"Your date plan at {place} is now verified." in shown


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("links", [{}, {"link": "https://a.example/7", "unsubscribe": "https://a.example/stop"}])
def test_the_html_keeps_the_rules_of_html_mail(language: str, links: dict[str, str]) -> None:
    html = SHIPPED.render("dateplan_verified", {"place": "Café Ümlaut", "language": language, **links}).html or ""
    tags = _Tags(html)
    found = {tag for tag, _ in tags.tags}
    assert len(html.encode()) < 6_000
    assert html.startswith("<!DOCTYPE html>")
    assert ("html", {"lang": language, "dir": "ltr"}) in tags.tags
    assert ("meta", {"charset": "utf-8"}) in tags.tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags.tags
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in tags.tags
    assert "@media (prefers-color-scheme: dark)" in html
    assert all(attributes.get("role") == "presentation" for tag, attributes in tags.tags if tag == "table")
    assert ("600", "max-width:600px") in [
        (attributes.get("width"), match[0])
        for tag, attributes in tags.tags
        if tag == "table" and (match := re.search(r"max-width:\w+", attributes.get("style") or ""))
    ]
    assert "display:none" in html.partition("<body")[2].partition("</div>")[0], "the preheader"
    assert not found & {"script", "img", "link", "form", "iframe", "object"}
    assert [attributes["href"] for tag, attributes in tags.tags if tag == "a"] == list(links.values())
    assert html.count("http") == len(links)
    assert "url(" not in html
    assert tags.open == []


class _Tags(HTMLParser):
    """What is in a page, and which of its elements were never closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# What a template is given


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (date(2026, 11, 22), "2026-11-22"),
        (datetime(2026, 11, 22, 9, 5, tzinfo=UTC), "2026-11-22 09:05:00+00:00"),
        (Decimal("12.50"), "12.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (0, "0"),
        (True, "true"),
        ([1, None, 2], "1, 2"),
    ],
)
def test_values_that_are_no_text_just_work(write: Write, value: object, shown: str) -> None:
    content = _render(write("{{ v }}.", "{{ v }}.{{ v | oneline }}", "<{{ v }}>"), v=value)
    assert content == Content(f"{shown}.", f"{shown}.{shown}\n", f"<{shown}>\n")
    _shipped(value)


def test_only_html_is_escaped(write: Write) -> None:
    content = _render(write("{{ v }}", "{{ v }}", "{{ v }}"), v="<&>\"'")
    assert content == Content("<&>\"'", "<&>\"'\n", "&lt;&amp;&gt;&#34;&#39;\n")


@pytest.mark.parametrize("name", ["card/_card.html", "base.j2", "part.txt.j2", "Karte", "x.xml", "a.html.j2.bak"])
@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("{% include 'FILE' %}", "{{ v }}"),
        ("{% extends 'FILE' %}{% block b %}{{ v }}{% endblock %}", "{% block b %}{% endblock %}"),
        ("{% extends 'FILE' %}{% block b %}{{ super() }}{% endblock %}", "{% block b %}{{ v }}{% endblock %}"),
        ("{% import 'FILE' as f %}{{ f.m(v) }}", "{% macro m(x) %}{{ x }}{% endmacro %}"),
        ("{% from 'FILE' import m with context %}{{ m() }}", "{% macro m() %}{{ v }}{% endmacro %}"),
        ("{% from 'FILE' import m %}{% call m() %}{{ v }}{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}"),
    ],
)
def test_the_kind_of_part_decides_what_is_escaped(write: Write, name: str, source: str, file: str) -> None:
    source = source.replace("FILE", name)
    content = _render(write(source, source, source, **{name: file}), v="<a href=x>&'")
    assert content == Content("<a href=x>&'", "<a href=x>&'\n", "&lt;a href=x&gt;&amp;&#39;\n")


def test_a_line_with_only_a_tag_leaves_no_line(write: Write) -> None:
    assert _render(write(text="a\n  {% if true %}\nb\n  {% endif %}\nc")).text == "a\nb\nc\n"


def test_a_row_is_never_a_template(write: Write) -> None:
    assert _render(write(text="{{ v }}"), v="{{ 7 * 7 }}{% include 'x' %}").text == "{{ 7 * 7 }}{% include 'x' %}\n"


def test_a_mail_without_html_is_a_text_mail(write: Write) -> None:
    assert _render(write()) == Content("s", "t\n", None)


def test_the_operators_file_goes_before_the_shipped_one(write: Write) -> None:
    directory = write(
        **{"dateplan_verified/subject.txt.j2": "Hurra", "_layout.txt.j2": "{% block message %}{% endblock %}"}
    )
    content = Templates(["dateplan_verified"], directory).render("dateplan_verified", {"place": "x"})
    assert content.subject == "Hurra"
    assert content.text.endswith("Have a lovely time!\n")
    assert content.html == _shipped("x").html


def test_nothing_is_read_once_the_templates_are_compiled(write: Write) -> None:
    directory = write("{{ v }}", "{% include 'part.txt.j2' %}", **{"part.txt.j2": "{{ v }}"})
    templates = Templates(["mail"], directory)
    for file in directory.rglob("*.j2"):
        file.unlink()
    assert templates.render("mail", {"v": 1}) == Content("1", "1\n", None)


# Variables


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("{{ a }} {{ b[0:1] }}", {"a", "b"}),
        ("{% for x in xs %}{{ x }}{{ loop.index }}{% endfor %}{{ range(2) }}", {"xs"}),
        ("{% set x = y %}{{ x }}", {"y"}),
        ("{% set x = x | oneline %}{{ x }}", {"x"}),
        ("{% macro m(x) %}{{ x }}{{ z }}{% endmacro %}{{ m(1) }}", {"z"}),
        ("{% if x is defined %}{{ x }}{% endif %}{{ y | default('-') }}", set()),
        ("{% include 'other.txt.j2' %}", {"o"}),
        ("{% for o in os %}{% include 'other.txt.j2' %}{% endfor %}", {"os"}),
        ("{% include 'absent.txt.j2' ignore missing %}{{ a }}", {"a"}),
        ("{% from 'macros.txt.j2' import m %}{{ m(a) }}", {"a"}),
        ("{% import 'macros.txt.j2' as k %}{{ k.m(a) }}", {"a"}),
        ("{% extends 'base.txt.j2' %}{% set title = 'T' %}{% block b %}{{ a }}{% endblock %}", {"a", "footer"}),
        ("{% extends 'base.txt.j2' %}{% set title %}T{% endset %}", {"footer"}),
        (
            "{% extends 'base.txt.j2' %}{% macro title() %}T{% endmacro %}{% block b %}{{ title() }}{% endblock %}",
            {"footer"},
        ),
    ],
)
def test_the_variables_a_template_takes_are_known(write: Write, source: str, variables: set[str]) -> None:
    others = {
        "other.txt.j2": "{{ o }}",
        "macros.txt.j2": "{% macro m(x) %}{{ x }}{% endmacro %}",
        "base.txt.j2": "{{ title }}{% block b %}{% endblock %}{{ footer }}",
    }
    templates = Templates(["mail"], write(text=source, **others))
    assert templates.variables("mail", translated=True) == variables
    templates.render("mail", {name: [] for name in variables})  # and it needs no others


def test_the_variables_of_all_three_parts_count(write: Write) -> None:
    assert Templates(["mail"], write("{{ a }}", "{{ b }}", "{{ c }}")).variables("mail", translated=True) == {
        "a",
        "b",
        "c",
    }


# What breaks a rule


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"subject": None}, "mail/subject.txt.j2"),
        ({"text": None}, "mail/body.txt.j2"),
        ({"text": "one\n{{ v"}, "mail/body.txt.j2, line 2"),
        ({"text": "one\n\n{% if %}"}, "mail/body.txt.j2, line 3"),
        (
            {"html": "{% extends '_layout.html.j2' %}\n{% block heading %}Hallo{% endblock %}"},
            "mail/body.html.j2, line 2: no file that this one extends prints a block heading",
        ),
        ({"html": "{% block a %}"}, "mail/body.html.j2, line 1"),
        ({"text": "{{ v | nosuchfilter }}"}, "nosuchfilter"),
        ({"text": "{% extends '_absent.txt.j2' %}"}, "_absent.txt.j2"),
        ({"text": "{% include 'part.txt.j2' %}", "part.txt.j2": "\n{% endif %}"}, "part.txt.j2, line 2"),
        ({"text": "a\n{% include v %}"}, "mail/body.txt.j2, line 2"),
        ({"text": "{% extends v ~ '.j2' %}"}, "mail/body.txt.j2, line 1"),
        ({"text": "{% include '../../etc/passwd' %}"}, "etc/passwd"),
        ({"text": "{% include '/etc/passwd' %}"}, "etc/passwd"),
    ],
)
def test_a_broken_template_breaks_the_rule_at_the_start(write: Write, files: dict[str, str], told: str) -> None:
    with pytest.raises(RuleBroken) as caught:
        Templates(["mail"], write(**files))
    assert told in str(caught.value)
    assert re.search(r"correct|write", str(caught.value)), "the remedy"


def test_a_byte_order_mark_is_not_part_of_the_mail(write: Write) -> None:
    content = _render(write("\ufeffHello", "\ufeffBody"))
    assert (content.subject, content.text) == ("Hello", "Body\n")


def test_a_template_that_is_not_utf_8_breaks_the_rule(write: Write) -> None:
    directory = write()
    (directory / "mail/body.html.j2").write_bytes(b"caf\xe9")
    with pytest.raises(RuleBroken, match=r"mail/body\.html\.j2 is not UTF-8"):
        Templates(["mail"], directory)


@pytest.mark.parametrize("name", ["", "absent", "../mail", "/etc", "mail/../mail", "."])
def test_a_name_that_is_none_breaks_the_rule(write: Write, name: str) -> None:
    directory = write()
    with pytest.raises(RuleBroken, match=re.escape(f"write it in {directory}, or correct its name")):
        Templates([name], directory)


def test_a_variable_the_lookup_does_not_give_breaks_the_rule(write: Write) -> None:
    with pytest.raises(RuleBroken, match=r"template mail uses \{\{ place \}\}, which the lookup does not return"):
        _render(write("{{ place }}"), place_name="x")


# What breaks one row


@pytest.mark.parametrize(
    "expression",
    [
        "secret.nothing",
        "secret + 1",
        "1 / (secret | length - 10)",
        "secret | round",
        "secret()",
        "(secret ~ '%d') % 'x'",
        "secret.__class__.__mro__",
        "''.__class__.__base__.__subclasses__()",
        "'{0.__class__}'.format(secret)",
        "range(10 ** 9)",
        "[].append(1)",
    ],
)
def test_a_failure_on_one_row_is_bad_data_and_does_not_quote_the_row(write: Write, expression: str) -> None:
    with pytest.raises(BadData) as caught:
        _render(write(text="one\n{% if secret %}{{ " + expression + " }}{% endif %}"), secret="jane's own")
    assert caught.value.reason == "render_error"
    assert re.fullmatch(r"[A-Za-z]+ in mail/body\.txt\.j2, line 2", str(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_failure_in_a_layout_names_the_layout(write: Write) -> None:
    directory = write(text="{% extends 'base.txt.j2' %}", **{"base.txt.j2": "\n\n{{ v.nothing }}"})
    with pytest.raises(BadData, match=r"base\.txt\.j2, line 3$"):
        _render(directory, v="x")


def test_a_huge_value_is_bad_data_if_it_is_used(write: Write) -> None:
    huge = "x" * (MAX_MESSAGE_BYTES + 1)
    with pytest.raises(BadData) as caught:
        _render(write("{{ v | default('-') }}"), v=huge)
    assert caught.value.reason == "too_large"
    assert len(str(caught.value)) < 120
    assert _render(write("{{ v }}"), v="x", unused=huge).subject == "x"


def test_a_translation_of_an_own_mail_cannot_lose_its_words(write: Write) -> None:
    html = "{% extends '_layout.html.j2' %}{% block message %}<p>Hello</p>{% endblock %}"
    german = "{% extends 'mail/body.html.j2' %}{% block heading %}Hallo{% endblock %}"
    directory = write(
        "s", "t", html, **{"mail/de/subject.txt.j2": "s", "mail/de/body.txt.j2": "t", "mail/de/body.html.j2": german}
    )
    with pytest.raises(RuleBroken, match=r"mail/de/body.html.j2, line 1: .* block heading.*: .*message"):
        Templates(["mail"], directory)


def test_an_own_layout_may_leave_out_what_a_shipped_mail_fills_in(tmp_path: Path) -> None:
    (tmp_path / "_layout.html.j2").write_text("{% block message %}{% endblock %}", encoding="utf-8")
    content = Templates(["dateplan_verified"], tmp_path).render(
        "dateplan_verified", {"place": "Café", "dir": "ltr", "start": "left", "end": "right"}
    )
    assert "Congratulations" in str(content.html)
