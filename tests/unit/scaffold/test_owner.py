"""The owner's address, from tables that are made by hand."""

from listener.scaffold.catalog import Table
from listener.scaffold.inference import About, Choice, JoinedColumn
from listener.scaffold.owner import choose_owner, find_about
from tests.support.tables import refers, table

BARE = table("users", "id int", "name text")
VIA = refers("user_id", BARE)
ORDERS = table("orders", "id int", "status text", references=[VIA])


def about(name: str, *columns: str, owner: Table = BARE, unique: str | None = "user_id") -> Table:
    return table(name, "id int", "user_id int", *columns, references=[refers("user_id", owner)], unique=unique)


def test_the_address_of_a_row_about_the_owner() -> None:
    contact = about("contact", "email text")
    assert choose_owner(ORDERS, [ORDERS, BARE, contact]) == Choice(
        JoinedColumn(VIA, "email", About(contact, contact.references[0]))
    )


def test_a_table_with_several_rows_an_owner_has_no_address() -> None:
    assert choose_owner(ORDERS, [ORDERS, BARE, about("letters", "email text", unique=None)]).value is None


def test_two_rows_about_the_owner_are_one_too_many() -> None:
    two = [about("contact", "email text"), about("billing", "email text")]
    assert choose_owner(ORDERS, [ORDERS, BARE, *two]) == Choice(
        None, "it may be public.contact.email or public.billing.email"
    )


def test_an_owner_with_an_address_needs_no_other() -> None:
    users = table("users", "id int", "email text")
    via = refers("user_id", users)
    orders = table("orders", "id int", references=[via])
    contact = about("contact", "email text", owner=users)
    assert choose_owner(orders, [orders, users, contact]) == Choice(JoinedColumn(via, "email"))


def test_the_primary_verified_address_of_allauth() -> None:
    users = table("users", "id int", "email text")
    via = refers("user_id", users)
    orders = table("orders", "id int", references=[via])
    columns = ("email text", "verified boolean", "primary boolean")
    book = about("account_emailaddress", *columns, owner=users, unique=None)
    assert choose_owner(orders, [orders, users, book]) == Choice(
        JoinedColumn(via, "email", About(book, book.references[0], ("primary", "verified")))
    )
    # Another table of that name is none of allauth's.
    other = about("account_emailaddress", "email text", owner=users, unique=None)
    assert choose_owner(orders, [orders, users, other]) == Choice(JoinedColumn(via, "email"))


def test_a_row_may_be_its_own_owner() -> None:
    leads = table("leads", "id int", "email text")
    assert choose_owner(leads, [leads]) == Choice(JoinedColumn(None, "email"))
    bare = table("leads", "id int")
    contact = table("contact", "lead_id int", "email text", references=[refers("lead_id", bare)])
    assert choose_owner(bare, [bare, contact]) == Choice(
        JoinedColumn(None, "email", About(contact, contact.references[0]))
    )


def test_the_watched_table_is_not_about_its_owner() -> None:
    """A user's only order refers to the user as a profile does."""
    order = about("orders", "email text")
    assert list(find_about(BARE, [BARE, order], order)) == []
