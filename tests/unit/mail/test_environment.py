"""The sandbox of templates: where files come from, and what no template can do with a row."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from listener.errors import BadData
from listener.mail.environment import TemplateEnvironment, place_of
from listener.mail.reader import reader_of, writing_for
from listener.transport.base import MAX_MESSAGE_BYTES


@pytest.fixture
def environment(tmp_path: Path) -> TemplateEnvironment:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.txt.j2").write_text(f"{folder} {{{{ v }}}}", encoding="utf-8")
    (tmp_path / "second" / "mail.html.j2").write_text("\ufeff{{ v }}", encoding="utf-8")
    (tmp_path / "second" / "broken.txt.j2").write_text("one\n{{ v.nothing.more }}", encoding="utf-8")
    return TemplateEnvironment([tmp_path / "first", tmp_path / "second"])


def test_the_first_folder_goes_first(environment: TemplateEnvironment) -> None:
    assert environment.get_template("both.txt.j2").render(v="x") == "first x"


def test_only_html_is_escaped_and_a_byte_order_mark_is_dropped(
    environment: TemplateEnvironment, tmp_path: Path
) -> None:
    page = TemplateEnvironment([tmp_path / "second"], html=True)
    assert page.get_template("mail.html.j2").render(v="<b>") == "&lt;b&gt;"
    assert environment.get_template("mail.html.j2").render(v="<b>") == "<b>"
    assert environment.get_template("both.txt.j2").render(v="<b>") == "first <b>"


def test_null_is_empty_and_a_missing_variable_is_an_error(environment: TemplateEnvironment) -> None:
    assert environment.from_string("{{ v }}").render(v=None) == ""
    assert environment.from_string("{% if link %}link{% endif %}").render() == ""
    with pytest.raises(UndefinedError):
        environment.from_string("{{ v }}").render()


@pytest.mark.parametrize("source", ["{{ v * 10 ** 9 }}", "{{ 10 ** 9 * v }}", "{{ [v] * 10 ** 9 }}"])
def test_a_text_cannot_be_repeated_into_gigabytes(environment: TemplateEnvironment, source: str) -> None:
    with pytest.raises(BadData, match=f"at most {MAX_MESSAGE_BYTES} octets") as caught:
        environment.from_string(source).render(v="x")
    assert caught.value.reason == "too_large"
    assert environment.from_string("{{ v * 3 }}{{ 2 * 3 }}").render(v="x") == "xxx6"


@pytest.mark.parametrize("source", ["{{ v.__class__.__mro__ }}", "{{ [].append(v) }}"])
def test_a_template_cannot_reach_beyond_its_values(environment: TemplateEnvironment, source: str) -> None:
    with pytest.raises(SecurityError):
        environment.from_string(source).render(v="x")


def test_an_error_names_the_template_and_the_line(environment: TemplateEnvironment) -> None:
    with pytest.raises(UndefinedError) as caught:
        environment.get_template("broken.txt.j2").render(v="x")
    assert place_of(caught.value) == "second/broken.txt.j2, line 2"
    assert place_of(ValueError("x")) == "a template"


def test_what_is_constant_is_not_printed_in_advance() -> None:
    """There would be no reader yet, and Python's own text of it."""
    for html in (False, True):
        environment = TemplateEnvironment([], html=html)
        assert environment.from_string("{{ true }} {{ {1: true} == {1: true} }}").render() == "true true"
        template = environment.from_string("{{ 1234 | number }} {{ '1.5' | number }}")
        with writing_for(reader_of({"language": "de"}, "", "ltr")):
            assert template.render() == "1.234 1,5"
