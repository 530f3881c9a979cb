"""The query around the operator's own: what it weighs, and that nobody can plant a function in it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from listener.config.rules import Rule
from listener.worker.row_budget import MAX_ROWS, limit_rows
from listener.worker.watched_state import WatchedState
from listener.worker.watched_value import WatchedValue

TEXT, JSONB, INT4, BOOL = 25, 3802, 23, 16
STATE = WatchedState(
    Rule(table="public.t", becomes=("VE",), template="t", lookup="%(keys)s"), {}, (WatchedValue("VE", None, ("VE",)),)
)
LOOKUP = "SELECT key, doc FROM t WHERE id = ANY (%(keys)s::int[])"


def column(name: str, type_oid: int = TEXT, size: int | None = None) -> Any:
    return SimpleNamespace(name=name, type_code=type_oid, internal_size=size)


def weights(*columns: Any) -> str:
    """Return the SQL of a row's size."""
    found = re.search(r"SELECT [\w, ]+, (.*) AS octets\n", limit_rows(LOOKUP, columns, STATE))
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("one", "weight"),
    [
        (column("a"), "coalesce(pg_catalog.octet_length(c0), 0)"),
        (column("a", INT4, 4), None),
        (column("a", BOOL, 1), None),
    ],
)
def test_a_column_weighs_its_text(one: Any, weight: str | None) -> None:
    size = weights(one, column("key", INT4, 4), column("current", INT4, 4))
    assert size == f"{50 * 5}::pg_catalog.int8" + (f" OPERATOR(pg_catalog.+) {weight}" if weight else "")


def test_a_document_weighs_four_times() -> None:
    """Each part of it becomes an object of its own. Weighed once, a batch of documents would exhaust the memory."""
    assert weights(column("key", INT4, 4), column("current", INT4, 4), column("doc", JSONB)).endswith(
        " OPERATOR(pg_catalog.*) 4, 0)"
    )


def test_of_two_key_columns_the_last_counts() -> None:
    """As in the dictionary that the row becomes: its event is found by that one."""
    query = limit_rows(LOOKUP, [column("key"), column("doc"), column("key"), column("current")], STATE)
    kept = re.findall(r"CASE WHEN given OR .*? THEN (c\d) END", query)
    assert kept == ["c2"]
    assert "CASE WHEN given THEN c0 END" in query


def test_the_query_is_bounded_and_holds_the_lookup_unchanged() -> None:
    query = limit_rows(LOOKUP, [column("key"), column("doc", JSONB), column("current")], STATE)
    assert f"\n{LOOKUP}\n" in query
    assert f"\n LIMIT {MAX_ROWS + 1})" in query
    assert query.count("%(budget)s") == 1


def test_every_function_and_operator_names_its_schema() -> None:
    """The session has the role's own search_path. A function of the same name in it would run with the daemon's rights."""
    query = limit_rows("", [column("key"), column("doc", JSONB), column("n", INT4, 4), column("current")], STATE)
    calls = set(re.findall(r"([\w.]+)\(", query))
    # The others are syntax, which no search_path changes.
    assert {call for call in calls if not call.startswith("pg_catalog.")} <= {"coalesce", "OPERATOR"}
    assert not re.search(r"(?<!pg_catalog\.)(?<!<)[<=+*]", query)
    assert not re.search(r"::(?!pg_catalog\.)", query)
