"""Blocks that no file prints."""

import pytest
from jinja2 import Environment

from listener.mail.blocks import misplaced

LAYOUT = "{% block title %}T{% endblock %}{% if x %}{% block message %}{% endblock %}{% endif %}"
PAGE = "{% extends 'layout' %}{% block message %}{% block heading %}Hello{% endblock %}{% endblock %}"


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        ("{% block heading %}{% endblock %}", []),
        ("{% extends 'layout' %}{% block message %}x{% endblock %}{% block title %}x{% endblock %}", []),
        ("{% extends 'layout' %}\n{% block heading %}x{% endblock %}", [(2, "heading", "message, title")]),
        ("{% extends 'layout' %}{% if x %}{% block heading %}x{% endblock %}{% endif %}", [(1, "heading", "message, title")]),
        # A block within one that is printed has its place.
        (PAGE, []),
        ("{% extends 'page' %}{% block heading %}Hallo{% endblock %}", []),
        ("{% extends 'page' %}{% block news %}{% endblock %}", [(1, "news", "heading, message, title")]),
        # The page's own message has the place of the heading.
        (
            "{% extends 'page' %}{% block heading %}x{% endblock %}{% block message %}x{% endblock %}",
            [(1, "heading", "message, title")],
        ),
        ("{% extends 'page' %}{% block heading %}x{% endblock %}{% block message %}{{ super() }}!{% endblock %}", []),
        ("{% extends 'layout' %}{% block a %}x{% endblock %}{% block title %}{{ self.a() }}{% endblock %}", []),
        # It is not known which of them it extends.
        ("{% if x %}{% extends 'layout' %}{% endif %}{% block heading %}x{% endblock %}", []),
    ],
)  # fmt: skip
def test_a_block_without_a_place_is_found(source: str, lost: list[tuple[int, str, str]]) -> None:
    environment = Environment()
    trees = {name: environment.parse(text) for name, text in [("mail", source), ("layout", LAYOUT), ("page", PAGE)]}
    assert list(misplaced("mail", trees)) == [
        (
            line,
            f"no file that this one extends prints a block {name}, so its words would be lost; "
            f"write them in one of its blocks: {blocks}",
        )
        for line, name, blocks in lost
    ]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{% extends 'layout' %}\n\n  {# a comment #}\n{% set a = 1 %}{% set b %}text{% endset %}", None),
        ("{% macro m() %}text{% endmacro %}{% extends 'layout' %}{% block title %}x{% endblock %}", None),
        # Jinja2 prints what stands before.
        ("text{% extends 'layout' %}", None),
        ("text", None),
        ("{% extends 'layout' %}\n\n text", 3),
        ("{% extends 'layout' %}\n{{ place }}", 2),
        ("{% extends 'layout' %}{% block title %}x{% endblock %}\n{% if x %}\n{% else %}\ntext{% endif %}", 4),
        ("{% extends 'layout' %}{% for x in y %}{{ x }}{% endfor %}", 1),
        ("{% extends 'layout' %}{% macro m() %}x{% endmacro %}\n{{ m() }}", 2),
    ],
)
def test_text_outside_the_blocks_is_found(source: str, line: int | None) -> None:
    environment = Environment()
    trees = {name: environment.parse(text) for name, text in [("mail", source), ("layout", LAYOUT)]}
    fault = "text outside the blocks of a file that extends another would be lost; write it in one of its blocks: message, title"
    assert list(misplaced("mail", trees)) == ([(line, fault)] if line else [])


def test_files_that_extend_each_other_end() -> None:
    trees = {name: Environment().parse(f"{{% extends '{other}' %}}") for name, other in (("a", "b"), ("b", "a"))}
    assert list(misplaced("a", trees)) == []
