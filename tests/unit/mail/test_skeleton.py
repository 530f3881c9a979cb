"""The skeleton: every line that a template can print, with its place, and none that it cannot."""

import pytest
from jinja2 import Environment

from listener.mail.skeleton import Line, skeleton

OTHERS = {
    "base": "a:{% block x %}\nb:1\n{% endblock %}c\n{% block y %}d{% endblock %}",
    "middle": '{% extends "base" %}{% block x %}middle{% endblock %}{% block y %}middle{% endblock %}',
    "more": "one\ntwo:{{ v }}\n",
}


def lines(source: str) -> list[Line]:
    environment = Environment(lstrip_blocks=True)
    trees = {name: environment.parse(text) for name, text in {**OTHERS, "file": source}.items()}
    return [line for line in skeleton("file", trees, "*") if line.text.strip()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a:{{ x }}{{ y }}\n\nb: c{# d #}\n", [("a:**", "file", 1), ("b: c", "file", 3)]),
        (
            "{% if x %}\na\n{% elif y %}\nb\n{% else %}\nc\n{% endif %}",
            [("a", "file", 2), ("b", "file", 4), ("c", "file", 6)],
        ),
        ("{% for x in y %}\na{{ x }}\n{% else %}\nb\n{% endfor %}", [("a*", "file", 2), ("b", "file", 4)]),
        ("a:{% if x %}b{% else %}c{% endif %}\nd", [("a:bc", "file", 1), ("d", "file", 2)]),
        (
            "{% with x = 1 %}\na\n{% endwith %}{% set y %}b{% endset %}{% macro m() %}c{% endmacro %}",
            [("a", "file", 2)],
        ),
        (
            'z\n{% include "more" %}{% include "nowhere" ignore missing %}\ny',
            [("z", "file", 1), ("one", "more", 1), ("two:*", "more", 2), ("y", "file", 3)],
        ),
        (
            '{% extends "middle" %}\nignored\n{% block y %}\nmine\n{% endblock %}',
            [("a:middlec", "base", 1), ("mine", "file", 4)],
        ),
    ],
    ids=["values", "if", "for", "within a line", "not printed", "include", "extends"],
)
def test_every_line_that_can_be_printed(source: str, expected: list[tuple[str, str, int]]) -> None:
    assert lines(source) == [Line(*each) for each in expected]
