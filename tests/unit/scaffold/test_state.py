"""The state of tables that are made by hand: a value that is known, a condition, or a line to complete."""

import pytest

from listener.scaffold.catalog import Column
from listener.scaffold.inference import Choice
from listener.scaffold.state import choose_state, find_conditions, find_statuses, known_values
from tests.support.tables import table

CHECK = "CHECK (((status)::text = ANY ((ARRAY['PE'::character varying, 'V''E]'::character varying])::text[])))"


@pytest.mark.parametrize(
    ("type", "check", "known"),
    [
        ("text", CHECK, ("PE", "V'E]")),
        ("text", "CHECK ((status = 'PE'::text) OR (status = 'VE'::text))", ("PE", "VE")),
        ("integer", "CHECK ((status = ANY (ARRAY[0, 1, '-2'::integer])))", ("0", "1", "-2")),
        # None of these says what the column may hold.
        ("integer", "CHECK ((status >= 0))", ()),
        ("text", "CHECK ((status <> 'no'::text))", ()),
        ("text", "CHECK ((status <> ALL (ARRAY['no'::text, 'nil'::text])))", ()),
        ("text", "CHECK ((NOT (status = ANY (ARRAY['no'::text]))))", ()),
        ("text", "CHECK ((char_length(status) = 2))", ()),
    ],
)
def test_values_of_a_check(type: str, check: str, known: tuple[str, ...]) -> None:
    column = Column("status", "status", type, "S" if type == "text" else "N", (), (check,))
    assert known_values(column) == known


def test_values_of_an_enum() -> None:
    assert known_values(Column("status", "status", "progress", "E", ("PE", "VE"))) == ("PE", "VE")


@pytest.mark.parametrize(
    ("column", "condition"),
    [
        ("is_verified boolean", "new.is_verified"),
        ("Approved boolean", 'new."Approved"'),
        ("isPaid boolean", 'new."isPaid"'),
        ("shipped_at timestamptz", "new.shipped_at IS NOT NULL"),
        ("paid_on date", "new.paid_on IS NOT NULL"),
        ("is_active boolean", None),
        ("is_deleted boolean", None),
        ("notifications_enabled boolean", None),
        ("is_subscribed boolean", None),
        ("created_at timestamptz", None),
        ("expires_at timestamptz", None),
        ("due_on date", None),
        ("last_login timestamptz", None),
        ("last_paid_at timestamptz", None),
        ("delivered_at timestamptz NOT NULL", None),
        ("shipped text", None),
    ],
)
def test_columns_named_like_a_state(column: str, condition: str | None) -> None:
    found = [text for text, _ in find_conditions(table("orders", "id int", column))]
    assert found == ([condition] if condition else [])


@pytest.mark.parametrize("column", ["status text", "state progress", "order_status text", "orderStatus text"])
def test_columns_named_like_a_status(column: str) -> None:
    assert len(find_statuses(table("orders", "id int", column))) == 1


def test_no_value_is_guessed() -> None:
    orders = table("orders", "id int", "status text")
    assert choose_state(orders, None).becomes == Choice(
        None,
        "status is described by no CHECK or enum, and no row that this role can read has a value; choose one with --becomes",
    )
    assert choose_state(orders, None, ["VE"]).becomes == Choice(
        None,
        "status is VE in the rows that were read, and no CHECK or enum says what else it may be; choose one with --becomes",
    )
    checked = table("orders", "id int", f"status text {CHECK}")
    assert choose_state(checked, None, ["PE"]).becomes == Choice(
        None, "status is one of PE, V'E] (its CHECK); choose one with --becomes"
    )
    assert choose_state(checked, "PE").becomes == Choice("PE")
    assert choose_state(checked, "VE").becomes == Choice("VE", "status is one of PE, V'E] (its CHECK)")


def test_the_shipped_rule_has_its_value_if_the_column_can_hold_it() -> None:
    plans = table("date_plans", "id int", "status text")
    unsure = Choice("VE", "'VE' is the value of the shipped rule; no CHECK, enum or row confirms it")
    assert choose_state(plans, None).becomes == unsure
    assert choose_state(plans, None, ["PE"]).becomes == unsure
    assert choose_state(plans, None, ["PE", "VE"]).becomes == Choice("VE")
    checked = choose_state(table("dateplan", "id int", f"status text {CHECK}"), None, ["VE"]).becomes
    assert checked is not None
    assert checked.value is None


def test_a_number_is_completed_by_the_operator() -> None:
    state = choose_state(table("orders", "id int", "status int CHECK ((status = ANY (ARRAY[0, 1])))"), None)
    assert state.when is not None
    assert (state.when.value, state.conditions) == (None, ("new.status = CHANGE_ME",))
    assert state.when.why == "status is a number, one of 0, 1 (its CHECK); write one of them in the place of CHANGE_ME"
    assert (state.column, state.becomes) == (None, None)
    given = choose_state(table("orders", "id int", "status int"), "1")
    assert (given.column, given.becomes) == (Choice("status"), Choice("1"))


def test_one_condition_is_proposed_and_several_are_listed() -> None:
    one = choose_state(table("orders", "id int", "paid_at timestamptz"), None)
    assert one.when == Choice(
        "new.paid_at IS NOT NULL",
        "paid_at is the only column of public.orders that is named like a state; check it",
    )
    assert (one.name, one.changed_at) == ("paid", "paid_at")
    two = choose_state(table("orders", "id int", "paid_at timestamptz", "is_shipped boolean"), None)
    assert two.when == Choice(None, "public.orders has no status, and paid_at and is_shipped may be its state")
    assert two.conditions == ("new.paid_at IS NOT NULL", "new.is_shipped")


def test_a_boolean_status_is_a_condition() -> None:
    state = choose_state(table("orders", "id int", "status boolean"), None)
    assert state.when is not None
    assert state.when.value == "new.status"
