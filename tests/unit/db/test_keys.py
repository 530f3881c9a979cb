"""The SQL for a row's key as text, and for finding the row by its key."""

import pytest

from listener.config.rules import default_rules
from listener.db.keys import ColumnType, equals, key_text, literal, match, of, read_types, value_text

[RULE] = default_rules().values()


INTEGER = ColumnType(23, "integer", "pg_catalog.int4")
TEXT = ColumnType(25, "text", "pg_catalog.text")


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("bpchar", "pg_catalog.rtrim(pg_catalog.concat(t.\"id\"), ' ')"),
        ("int4", 'CASE WHEN t."id" IS NOT NULL THEN'),
        ("bool", "THEN 'true' WHEN NOT"),
    ],
)
def test_the_text_of_a_column_is_that_of_the_types_output_function(type_: str, expected: str) -> None:
    text = value_text("id", {"id": ColumnType(1, type_, f"pg_catalog.{type_}")}).as_string(None)
    assert expected in text
    assert "::text" not in text


def test_a_key_of_several_columns_is_an_array() -> None:
    types = {"a": INTEGER, "b": TEXT}
    assert key_text(RULE.model_copy(update={"key": ("a", "b")}), types).as_string(None).startswith("ARRAY[CASE WHEN")
    assert not key_text(RULE.model_copy(update={"key": ("a",)}), types).as_string(None).startswith("ARRAY")


def test_a_row_is_found_by_literals_of_the_columns_types() -> None:
    rule = RULE.model_copy(update={"key": ("a", "b")})
    assert match(rule, {"a": INTEGER, "b": TEXT}, ["7", "it's"]).as_string(None) == (
        "t.\"a\"::pg_catalog.int4 OPERATOR(pg_catalog.=) '7'::pg_catalog.int4 AND "
        "t.\"b\"::pg_catalog.text OPERATOR(pg_catalog.=) 'it''s'::pg_catalog.text"
    )
    assert equals("c", "x", {}).as_string(None) == "t.\"c\" OPERATOR(pg_catalog.=) 'x'"
    assert literal("x", None).as_string(None) == "'x'"


def test_a_type_of_an_extension_compares_by_its_own_operator() -> None:
    types = read_types([("c", 7, "app.citext", "app.citext", None, "OPERATOR(app.=)", None, "b")])
    assert equals("c", "x", types).as_string(None) == "t.\"c\"::app.citext OPERATOR(app.=) 'x'::app.citext"


def test_the_types_that_are_asked_for_are_those_of_the_key_and_the_watched_column() -> None:
    assert of(RULE) == {"table": RULE.table, "columns": [*RULE.key, RULE.column]}
