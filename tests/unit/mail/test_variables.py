"""The variables of a template, as its syntax tree shows them. `test_templates` has them for whole templates."""

import pytest
from jinja2 import Environment

from listener.mail.variables import Variables, references, variables_of


def variables(*sources: str) -> Variables:
    return variables_of(Environment(autoescape=True).parse(source) for source in sources)


@pytest.mark.parametrize(
    ("source", "needed", "optional"),
    [
        ("{{ a }}{{ b.c }}", {"a", "b"}, set()),
        ("{% if a is defined %}{{ a }}{% endif %}", set(), {"a"}),
        ("{{ a | default('x') }}{{ b | d('x') }}", set(), {"a", "b"}),
        ("{% set a = b %}{{ a }}", {"b"}, set()),
        ("{% set a = a | upper %}{{ a }}", {"a"}, set()),
        ("{% for a in as %}{{ a }}{% endfor %}", {"as"}, set()),
        ("{% macro m(a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", {"b"}, set()),
    ],
)
def test_the_variables_of_one_file(source: str, needed: set[str], optional: set[str]) -> None:
    assert variables(source) == Variables(frozenset(needed), frozenset(needed | optional))


def test_a_name_that_one_file_assigns_is_not_needed_by_another() -> None:
    assert variables("{% set title = 'T' %}", "{{ title }}{{ footer }}").needed == {"footer"}


def test_the_references_of_a_file() -> None:
    source = "{% extends 'a.j2' %}\n{% include b %}\n{% include 'c.j2' ignore missing %}\n{% from 'd.j2' import m %}"
    found = sorted(references(Environment(autoescape=True).parse(source)))
    assert found == [(1, "a.j2", False), (2, None, False), (3, "c.j2", True), (4, "d.j2", False)]
