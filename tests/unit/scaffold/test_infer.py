"""Inference from tables that are made by hand: what is decided, and what is left to the operator."""

import pytest

from listener.errors import SchemaError
from listener.scaffold.catalog import Column, Reference, Table
from listener.scaffold.infer import choose_table, infer
from listener.scaffold.inference import Choice, JoinedColumn, State
from tests.support.tables import refers, table

USERS = table("users", "id int", "email text", "wants_notifications boolean", "email_verified boolean")
PLACES = table("places", "id int", "name text")


def orders(*references: Reference, columns: tuple[str, ...] = ("id int", "status text")) -> Table:
    return table("orders", *columns, references=list(references))


def test_everything_is_decided() -> None:
    owner, place = refers("user_id", USERS), refers("place_id", PLACES)
    rule = infer(orders(owner, place), "shipped")
    assert rule.name == "orders_shipped"
    assert rule.key.value == ("id",)
    assert rule.state == State(Choice("status"), Choice("shipped"))
    assert rule.owner.value == JoinedColumn(owner, "email")
    assert rule.consent.value == JoinedColumn(owner, "wants_notifications")
    assert rule.place is None
    assert (rule.undecided, rule.warnings) == ([], [])


def test_a_date_in_the_primary_key_is_left_out_of_the_key() -> None:
    columns = {
        "id": Column("id", "id", "bigint", "N"),
        "placed_on": Column("placed_on", "placed_on", "date", "D"),
        "status": Column("status", "status", "text", "S"),
    }
    rule = infer(Table("public", "orders", "public.orders", columns, ("id", "placed_on")), "shipped")
    assert rule.key.value == ("id",)
    assert rule.key.why == "placed_on cannot be part of it, because the type is date; check that id identifies a row"
    assert ("key", rule.key.why) in rule.warnings
    alone = infer(Table("public", "days", "public.days", columns, ("placed_on",)), "shipped")
    assert ("key", "placed_on cannot be part of it, because the type is date") in alone.undecided


def test_the_example_needs_a_place() -> None:
    place = refers("place_id", PLACES)
    plans = table("date_plans", "id int", "status text", references=[refers("user_id", USERS), place])
    rule = infer(plans, None)
    assert rule.name == "dateplan_verified"
    assert rule.place is not None
    assert rule.place.value == JoinedColumn(place, "name")


def test_a_reference_by_name_is_a_warning() -> None:
    rule = infer(orders(refers("user_id", USERS, declared=False), refers("place_id", PLACES)), "paid")
    assert rule.warnings == [
        ("owner", "user_id refers to public.users by its name only, not by a foreign key; check it")
    ]


def test_a_foreign_key_decides_between_owners() -> None:
    guests = table("guests", "id int", "email text", "consent boolean")
    rule = infer(orders(refers("a", USERS, declared=False), refers("b", guests)), None)
    assert rule.owner.value is not None
    assert rule.owner.value.via == refers("b", guests)


@pytest.mark.parametrize(
    ("watched", "setting", "why"),
    [
        (orders(columns=("id int", "note text")), "column", "public.orders has no column named like a status"),
        (
            orders(columns=("id int", "pay_status text", "ship_status text")),
            "column",
            "public.orders has several columns named like a status: pay_status and ship_status",
        ),
        (orders(), "becomes", "no row that this role can read has a value; choose one with --becomes"),
        (orders(columns=("id int", "status int")), "when", "write one of them in the place of CHANGE_ME"),
        (orders(), "owner", "no table that public.orders refers to has a column named email"),
        (orders(refers("a", USERS), refers("b", USERS)), "owner", "it may be the row that a or b refers to"),
    ],
)
def test_what_cannot_be_decided_says_why(watched: Table, setting: str, why: str) -> None:
    assert why in dict(infer(watched, None).undecided)[setting]


def test_a_condition_names_the_rule() -> None:
    columns = ("id int", "is_approved boolean")
    rule = infer(table("documents", *columns, references=[refers("user_id", USERS)]), None)
    assert (rule.name, rule.state.column) == ("documents_approved", None)
    assert rule.warnings == [("when", rule.state.when.why)] if rule.state.when else False
    assert infer(table("date_plan", "id int", "verified boolean"), None).name == "dateplan_verified"
    assert infer(table("orders", "id int", "paid_at date", "shipped_at date"), None).name == "orders_changed"


def test_a_table_without_a_status_is_chosen_if_it_alone_has_a_state_and_an_owner() -> None:
    book = table("account_emailaddress", "id int", "email text", "verified boolean", "primary boolean")
    book.references.append(refers("user_id", USERS))
    bills = table("bills", "id int", "paid_at date", references=[refers("user_id", USERS)])
    assert choose_table([USERS, book, bills], None) is bills
    assert choose_table([USERS, book, bills, orders(refers("user_id", USERS))], None).name == "orders"


@pytest.mark.parametrize(
    ("tables", "name", "chosen"),
    [
        (["a", "date_plans"], None, "date_plans"),
        (["a", "b"], "b", "b"),
        (["a", "b"], "public.b", "b"),
    ],
)
def test_the_table(tables: list[str], name: str | None, chosen: str) -> None:
    assert choose_table([table(each, "id int") for each in tables], name).name == chosen


def test_no_table_or_several_name_the_remedy() -> None:
    with pytest.raises(SchemaError, match="there is no table c in this database; check its name"):
        choose_table([table("a", "id int")], "c")
    with pytest.raises(SchemaError, match=r"there is no table with a status .*; choose one with --table"):
        choose_table([table("a", "id int")], None)
    fitting = [
        orders(refers("user_id", USERS)),
        table("refunds", "id int", "state text", references=[refers("u", USERS)]),
    ]
    with pytest.raises(
        SchemaError, match=r"more than one .*: public\.orders, public\.refunds; choose one with --table"
    ):
        choose_table(fitting, None)
