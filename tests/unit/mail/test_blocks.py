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


def test_files_that_extend_each_other_end() -> None:
    trees = {name: Environment().parse(f"{{% extends '{other}' %}}") for name, other in (("a", "b"), ("b", "a"))}
    assert list(misplaced("a", trees)) == []
