"""The value of a rule is compared with those that the column has or may have."""

import psycopg
import pytest

from tests.support.database import Database
from tests.support.doctor import RULE, Examine, rule_with

VALUE = f"value {RULE}"


@pytest.fixture
def shop(database: Database) -> Database:
    """Tables of orders, whose status has several types."""
    database.execute(
        """CREATE TYPE public.stage AS ENUM ('open', 'shipped');
           CREATE TABLE public.big (id bigint PRIMARY KEY, status text);
           INSERT INTO public.big SELECT i, CASE WHEN i % 3 = 0 THEN 'shipped' ELSE 'open' END FROM generate_series(1, 12000) i;
           CREATE TABLE public.small (id bigint PRIMARY KEY, status text);
           INSERT INTO public.small VALUES (1, 'shipped'), (2, 'open');
           CREATE TABLE public.listed (id bigint PRIMARY KEY, status varchar(20) CHECK (status IN ('open', 'shipped')));
           CREATE TABLE public.staged (id bigint PRIMARY KEY, status public.stage);
           CREATE TABLE public.flag (id bigint PRIMARY KEY, status boolean);
           CREATE TABLE public.number (id bigint PRIMARY KEY, status integer);
           INSERT INTO public.number VALUES (1, 7);
           ANALYZE"""
    )
    return database


def test_a_value_that_nothing_has_is_compared_with_the_others(shop: Database, doctor: Examine) -> None:
    meant = "did you mean 'shipped'?"
    for table, becomes, state, words in (
        ("big", "Shipped", "warn", meant),
        ("big", "shiped", "warn", meant),
        ("big", "shipped", "ok", "rows of public.big have it"),
        ("big", "cancelled", "ok", "it is a valid value"),
        ("small", "Shipped", "warn", meant),
        ("small", "shipped", "ok", "have it"),
        ("small", "cancelled", "ok", "no row of public.small has it yet"),
        ("listed", "Shipped", "warn", meant),
        ("listed", "cancelled", "warn", "a CHECK constraint allows others only; there are 'open', 'shipped'"),
        ("listed", "open", "ok", "no row of public.listed has it yet"),
        ("staged", "Shipped", "warn", f"not checked: 'Shipped' is no value of type public.stage; {meant}"),
        ("staged", "shipped", "ok", "is a value of type"),
        ("flag", "true", "ok", "is a value of type boolean"),
        ("flag", "yess", "warn", "no value of type boolean"),
        ("number", "07", "ok", "have it"),
    ):
        found = doctor(rule_with(table=f"public.{table}", becomes=becomes))[VALUE]
        assert (found.state, words in found.seen) == (state, True), (table, becomes, found)
        assert bool(found.remedy) == (state == "warn")


def test_a_collation_that_ignores_case(database: Database, doctor: Examine) -> None:
    try:
        database.execute(
            "CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    database.execute(
        """CREATE TABLE public.folded (id bigint PRIMARY KEY, status text COLLATE public.any_case);
           INSERT INTO public.folded VALUES (1, 'shipped')"""
    )
    assert "have it" in doctor(rule_with(table="public.folded", becomes="SHIPPED"))[VALUE].seen


def test_a_large_table_without_an_index_is_not_read(shop: Database, doctor: Examine) -> None:
    before = shop.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'big'")
    doctor(
        rule_with(
            table="public.big",
            becomes="Shipped",
            lookup="SELECT d.id AS key, d.status AS current, 'a' AS email, true AS consent, 'x' AS place FROM public.big AS d WHERE d.id = ANY (%(keys)s::bigint[])",
        )
    )
    shop.execute("SELECT pg_stat_clear_snapshot()")
    assert shop.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'big'") == before
