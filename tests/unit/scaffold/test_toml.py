"""The written file: TOML that says the rule, marks what is missing, and shows every character."""

import tomllib
from pathlib import Path

import pytest

from listener.scaffold.catalog import Column, Reference, Table
from listener.scaffold.infer import infer
from listener.scaffold.inference import Inference
from listener.scaffold.toml import write_toml
from listener.scaffold.watched import WatchedRule
from tests.support.tables import table as made


def column(name: str, type: str = "text", category: str = "S") -> Column:
    return Column(name, f'"{name}"' if not name.isidentifier() else name, type, category)


def table(name: str, columns: list[Column], key: tuple[str, ...], references: list[Reference] | None = None) -> Table:
    return Table("public", name, f"public.{name}", {each.name: each for each in columns}, key, list(references or ()))


def written(rule: Inference) -> str:
    return write_toml(rule, Path("conf/templates"))


USERS = table("users", [column("id", "bigint", "N"), column("email"), column("consent", "boolean", "B")], ("id",))


def test_a_complete_rule() -> None:
    plan = table("plan", [column("id", "bigint", "N"), column("status"), column("place")], ("id",))
    plan.references.append(Reference(("user_id",), USERS, ("id",)))
    plan.columns["user_id"] = column("user_id", "bigint", "N")  # type: ignore[index]
    text = written(infer(plan, "OK"))
    rule = tomllib.loads(text)["rules"]["plan_ok"]
    assert (rule["table"], rule["key"], rule["column"], rule["becomes"]) == ("public.plan", "id", "status", "OK")
    assert rule["template"] == "plan_ok"
    assert tomllib.loads(text)["mail"]["templates"] == "conf/templates"
    assert "place" not in text
    assert "capture" not in rule
    assert "LEFT JOIN public.users AS u ON u.id = d.user_id" in rule["lookup"]
    assert "WHERE d.id = ANY (%(keys)s::bigint[])" in rule["lookup"]
    assert "#   GRANT USAGE ON SCHEMA public TO pgherald_daemon;" in text
    assert "#   GRANT SELECT ON public.plan, public.users TO pgherald_daemon;" in text
    assert "CHANGE_ME" not in text


def test_what_is_missing_is_marked_where_it_stands() -> None:
    text = written(infer(table("plan", [column("status")], ()), None))
    rule = tomllib.loads(text)["rules"]["plan_changed"]
    assert "NOT READY. Could not infer: key, becomes, owner, consent. Search for CHANGE_ME." in text
    assert rule["becomes"] == "CHANGE_ME"
    assert "# CHANGE_ME: public.plan has no primary key\n" in text
    assert rule["key"] == "CHANGE_ME"
    assert 'u."CHANGE_ME" AS email' in rule["lookup"]
    assert "-- CHANGE_ME, email: no table that public.plan refers to" in rule["lookup"]


def test_the_example_keeps_its_shipped_email() -> None:
    plan = table("date_plan", [column("id", "bigint", "N"), column("status"), column("place")], ("id",))
    parsed = tomllib.loads(written(infer(plan, "VE")))
    rule = parsed["rules"]["dateplan_verified"]
    assert (rule["template"], rule["require"], parsed["mail"]) == ("dateplan_verified", ["place"], {})
    assert "d.place AS place" in rule["lookup"]


def test_a_watched_rule_is_written_as_it_is_watched() -> None:
    plan = table("plan", [column("id", "bigint", "N"), column("a_status"), column("b_status")], ("id",))
    watched = WatchedRule("plan_done", "public.plan", ("id",), "b_status", ("done",), "", "", (), "statement")
    rule = tomllib.loads(written(infer(plan, None, [plan], watched)))["rules"]["plan_done"]
    assert (rule["column"], rule["becomes"], rule["capture"], rule["key"]) == ("b_status", "done", "statement", "id")
    assert "d.b_status AS current" in rule["lookup"]


def test_a_composite_key_is_matched_part_by_part() -> None:
    plan = table("plan", [column("a", "bigint", "N"), column("b", "uuid", "U"), column("status")], ("a", "b"))
    rule = tomllib.loads(written(infer(plan, "OK")))["rules"]["plan_ok"]
    assert rule["key"] == ["a", "b"]
    assert "ARRAY[d.a::text, d.b::text] AS key" in rule["lookup"]
    assert (
        "(d.a, d.b) IN (SELECT (k::text[])[1]::bigint, (k::text[])[2]::uuid FROM unnest(%(keys)s::text[]) AS k)"
        in (rule["lookup"])
    )


def test_a_key_that_should_be_checked_says_why() -> None:
    plan = table("plan", [column("id", "bigint", "N"), column("day", "date", "D"), column("status")], ("id", "day"))
    text = written(infer(plan, "OK"))
    assert '# day cannot be part of it, because the type is date; check that id identifies a row\nkey = "id"\n' in text


def test_a_hostile_name_hides_nothing_and_is_no_parameter() -> None:
    hostile = 'x\\"""\u202e%s'
    plan = table("plan", [column("id", "bigint", "N"), column("status"), column(hostile)], ("id",))
    plan.columns["status"] = Column("status", f'"{hostile}"', "text", "S")  # type: ignore[index]
    text = written(infer(plan, "\u202eOK"))
    rule = tomllib.loads(text)["rules"]["plan_ok"]
    assert "\u202e" not in text
    assert rule["becomes"] == "\u202eOK"
    assert 'd."x\\"""\u202e%%s" AS current' in rule["lookup"]


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (["is_verified boolean"], 'when = "new.is_verified"\n'),
        (["isOpen boolean"], 'when = "new.\\"isOpen\\""\n'),
        (["paid_at timestamptz"], 'when = "new.paid_at IS NOT NULL"\n'),
        (["status smallint"], 'when = "new.status = CHANGE_ME"\n'),
        (
            ["paid_at date", "is_closed boolean"],
            '# when = "new.paid_at IS NOT NULL"\n# when = "new.is_closed"\nwhen = "CHANGE_ME"\n',
        ),
    ],
)
def test_a_condition_is_written_or_left_to_be_completed(columns: list[str], lines: str) -> None:
    text = written(infer(made("plan", "id int", *columns), None))
    assert lines in text
    [rule] = tomllib.loads(text)["rules"].values()
    assert {"column", "becomes"}.isdisjoint(rule)
    assert " AS current" not in rule["lookup"]


def test_the_time_of_a_condition_is_known() -> None:
    [rule] = tomllib.loads(written(infer(made("bill", "id int", "paid_at timestamptz"), None)))["rules"].values()
    assert rule["changed_at"] == "paid_at"


def test_the_grants_name_every_schema_and_table() -> None:
    users = Table(
        "people", "users", "people.users", {"id": column("id", "bigint", "N"), "email": column("email")}, ("id",)
    )
    likes = made("likes", "user_id bigint", "wants_email boolean", references=[Reference(("user_id",), users, ("id",))])
    plan = table(
        "plan", [column("id", "bigint", "N"), column("status")], ("id",), [Reference(("user_id",), users, ("id",))]
    )
    text = written(infer(plan, "OK", [users, likes, plan]))
    assert "#   GRANT USAGE ON SCHEMA public, people TO pgherald_daemon;" in text
    assert "#   GRANT SELECT ON public.plan, people.users, public.likes TO pgherald_daemon;" in text
