"""The consent, from tables that are made by hand. It is named unmistakably, or it is left to the operator."""

import pytest

from listener.scaffold.catalog import Table
from listener.scaffold.consent import choose_consent
from listener.scaffold.inference import About, Choice, JoinedColumn
from tests.support.tables import refers, table

CUSTOMERS = table("customers", "id int", "email text")
VIA = refers("customer_id", CUSTOMERS)
ORDERS = table("orders", "id int", "status text", references=[VIA])


def chosen(*others: Table) -> Choice[JoinedColumn]:
    return choose_consent(JoinedColumn(VIA, "email"), CUSTOMERS, [ORDERS, CUSTOMERS, *others], ORDERS)


def about(name: str, *columns: str, declared: bool = True, unique: str | None = "customer_id") -> Table:
    reference = refers("customer_id", CUSTOMERS, declared=declared)
    return table(name, "id int", "customer_id int", *columns, references=[reference], unique=unique)


@pytest.mark.parametrize("column", ["email_notifications_enabled", "wants_email", "emailConsent", "newsletter_opt_in"])
def test_a_profile_has_it(column: str) -> None:
    profile = about("profile", f"{column} boolean")
    choice = chosen(profile)
    if column.startswith("newsletter"):
        assert choice.value is None, "it may be about another kind of email"
    else:
        assert choice == Choice(JoinedColumn(VIA, column, About(profile, profile.references[0])))


def test_a_profile_whose_key_is_the_owner() -> None:
    profile = table("profile", "customer_id int", "wants_email boolean", references=[refers("customer_id", CUSTOMERS)])
    assert chosen(profile).value == JoinedColumn(VIA, "wants_email", About(profile, profile.references[0]))


def test_a_profile_that_only_its_names_lead_to_is_to_be_checked() -> None:
    choice = chosen(about("profile", "wants_email boolean", declared=False))
    assert choice.value is not None
    assert choice.why.startswith("customer_id refers to public.customers by its name only")


def test_a_table_with_several_rows_an_owner_is_named_and_not_taken() -> None:
    assert chosen(about("devices", "email_consent boolean", "no_mail boolean", unique=None)) == Choice(
        None,
        "public.customers has no boolean named like a consent to notifications; public.devices has email_consent, and may "
        "have several rows that refer to it: join that table if this is the consent",
    )


def test_two_places_are_one_too_many() -> None:
    two = [about("profile", "wants_email boolean"), about("preferences", "notify boolean")]
    assert chosen(*two) == Choice(None, "the consent may be public.profile.wants_email or public.preferences.notify")


def test_the_row_and_its_profile_are_one_too_many() -> None:
    owners = table("customers", "id int", "consent boolean")
    via = refers("customer_id", owners)
    profile = table("profile", "customer_id int", "wants_email boolean", references=[refers("customer_id", owners)])
    choice = choose_consent(JoinedColumn(via, "email"), owners, [owners, profile], ORDERS)
    assert choice == Choice(None, "the consent may be public.customers.consent or public.profile.wants_email")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (("email_verified boolean",), "email_verified may mean something else"),
        (("consent boolean", "notify boolean"), "public.users has consent and notify, and either may be the consent"),
    ],
)
def test_what_cannot_be_decided_says_why(columns: tuple[str, ...], why: str) -> None:
    users = table("users", "id int", "email text", *columns)
    choice = choose_consent(JoinedColumn(refers("user_id", users), "email"), users, [users], ORDERS)
    assert choice.value is None
    assert why in choice.why
    assert choose_consent(None, None, [users], ORDERS) == Choice(None, "the owner is not known")
