"""The key of a row as text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.config.keys import array_literal, parse_key, show_key
from listener.config.rules import Rule


def rule_with(*key: str) -> Rule:
    return Rule(table="public.t", key=key, becomes="VE", template="t", lookup="%(keys)s")


class TestKeys:
    def test_of_one_column_is_what_it_is(self) -> None:
        assert parse_key(rule_with("id"), "a,b") == "a,b"
        assert show_key(rule_with("id"), "{a}") == "{a}"

    def test_of_several_columns_is_an_array_literal(self) -> None:
        rule = rule_with("region", "no")
        assert parse_key(rule, "eu,7") == "{eu,7}"
        assert parse_key(rule, '{"eu, west",7}') == '{"eu, west",7}'
        assert show_key(rule, "{eu,7}") == "eu,7"
        assert show_key(rule, '{"eu, west",7}') == '{"eu, west",7}'

    @pytest.mark.parametrize("text", ["eu", "eu,7,8", ""])
    def test_with_another_number_of_values(self, text: str) -> None:
        with pytest.raises(ValueError, match="2 columns: region,no"):
            parse_key(rule_with("region", "no"), text)

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
    def test_what_is_shown_can_be_typed_again(self, parts: list[str]) -> None:
        rule = rule_with(*(f"c{i}" for i in range(len(parts))))
        stored = array_literal(parts) if len(parts) > 1 else parts[0]
        assert parse_key(rule, show_key(rule, stored)) == stored

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
    @example(["NULL", "null", ""])
    def test_the_literal_holds_the_parts(self, parts: list[str]) -> None:
        assert read_array(array_literal(parts)) == parts


def read_array(literal: str) -> list[str | None]:
    """As PostgreSQL reads a one-dimensional text[] (array_in)."""
    assert literal.startswith("{")
    assert literal.endswith("}")
    parts: list[str | None] = []
    text, quoted, at = "", False, 1
    while True:
        char = literal[at]
        if char == '"':
            quoted, at = True, at + 1
            while literal[at] != '"':
                at += literal[at] == "\\"
                text, at = text + literal[at], at + 1
        elif char in ",}":
            bare = text.strip(" \t\n\v\f\r")
            parts.append(text if quoted else None if bare.upper() == "NULL" else bare)
            text, quoted = "", False
            if char == "}":
                assert at == len(literal) - 1
                return parts
        else:
            assert char not in "{\\"
            text += char
        at += 1
