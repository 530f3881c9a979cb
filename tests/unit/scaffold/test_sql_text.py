"""The queries that are written for a rule."""

from listener.scaffold.infer import infer
from listener.scaffold.sql_text import RuleSql
from tests.support.tables import refers, table

USERS = table("users", "id int", "name text")
BOOK = table(
    "account_emailaddress", "id int", "user_id int", "email text", "verified boolean", "primary boolean",
    references=[refers("user_id", USERS)],
)  # fmt: skip
LIKES = table("likes", "user_id int", "wants_email boolean", references=[refers("user_id", USERS)])
ORDERS = table("orders", "id int", "user_id int", "status text", references=[refers("user_id", USERS)])


def test_three_tables_are_joined() -> None:
    queries = RuleSql(infer(ORDERS, "paid", [USERS, BOOK, LIKES, ORDERS]))
    assert queries.lookup() == (
        "  SELECT d.id AS key,\n"
        "         d.status AS current,\n"
        "         e.email AS email,\n"
        "         c.wants_email AS consent\n"
        "    FROM public.orders AS d\n"
        "    LEFT JOIN public.users AS u ON u.id = d.user_id\n"
        '    LEFT JOIN public.account_emailaddress AS e ON e.user_id = u.id AND e."primary" AND e.verified\n'
        "    LEFT JOIN public.likes AS c ON c.user_id = u.id\n"
        "   WHERE d.id = ANY (%(keys)s::integer[])\n"
    )
    assert queries.find() == (
        "  SELECT d.id AS key\n"
        "    FROM public.orders AS d\n"
        "    JOIN public.users AS u ON u.id = d.user_id\n"
        '    JOIN public.account_emailaddress AS e ON e.user_id = u.id AND e."primary" AND e.verified\n'
        "   WHERE lower(e.email) = lower(%(email)s::text)\n"
    )
    assert [each.name for each in queries.tables] == ["orders", "users", "users", "account_emailaddress", "likes"]


def test_one_row_about_the_owner_is_joined_once() -> None:
    profile = table(
        "profile", "user_id int", "email text", "wants_email boolean", references=[refers("user_id", USERS)]
    )
    lookup = RuleSql(infer(ORDERS, "paid", [USERS, profile, ORDERS])).lookup()
    assert "e.email AS email,\n         e.wants_email AS consent\n" in lookup
    assert lookup.count("public.profile") == 1


def test_an_unknown_owner_is_marked_in_both() -> None:
    queries = RuleSql(infer(table("orders", "id int", "status text"), "paid"))
    assert 'LEFT JOIN "CHANGE_ME" AS u ON u."CHANGE_ME" = d."CHANGE_ME"' in queries.lookup()
    assert 'lower(u."CHANGE_ME") = lower(%(email)s::text)' in queries.find()
