"""The catalog of a real database, as tables and references."""

import psycopg
import pytest
from psycopg import sql

from listener.db.connection import connect
from listener.scaffold.catalog import Table, read_tables
from listener.scaffold.state import known_values
from tests.support.database import Database


def tables(database: Database, statements: str) -> dict[str, Table]:
    database.execute(statements)  # type: ignore[arg-type]
    with connect(database.url) as conn:
        return {table.name: table for table in read_tables(conn)}


def test_columns_and_keys(bare_database: Database) -> None:
    found = tables(
        bare_database,
        """CREATE TYPE public.progress AS ENUM ('PE', 'VE'); CREATE DOMAIN public.short AS varchar(9);
           CREATE TABLE public."Plan" (id bigint, part int, "its State" public.progress, name public.short,
                                       done boolean CHECK (done IS NOT NULL), PRIMARY KEY (part, id));
           CREATE VIEW public.seen AS SELECT 1;""",
    )
    assert list(found) == ["Plan"]
    plan = found["Plan"]
    assert plan.qualified == 'public."Plan"'
    assert plan.key == ("part", "id")
    assert (plan.columns["its State"].quoted, plan.columns["its State"].labels) == ('"its State"', ("PE", "VE"))
    assert (plan.columns["name"].type, plan.columns["name"].is_text) == ("character varying", True)
    assert plan.columns["done"].is_boolean
    assert "done IS NOT NULL" in plan.columns["done"].checks[0]


def test_references_declared_and_by_name(bare_database: Database) -> None:
    found = tables(
        bare_database,
        """CREATE TABLE public.users (id bigint PRIMARY KEY); CREATE TABLE public.category (id int PRIMARY KEY);
           CREATE TABLE public.categories (id bigint PRIMARY KEY);
           CREATE TABLE public.plan (id int PRIMARY KEY, owner bigint REFERENCES public.users, user_id bigint,
                                     category_id int, other_id int);""",
    )
    assert {(each.columns, each.table.name, each.target, each.declared) for each in found["plan"].references} == {
        (("owner",), "users", ("id",), True),
        (("user_id",), "users", ("id",), False),
        # The key of `categories` has another type.
        (("category_id",), "category", ("id",), False),
    }


def test_columns_that_identify_a_row(bare_database: Database) -> None:
    found = tables(
        bare_database,
        """CREATE TABLE public.profile (id int PRIMARY KEY, user_id int UNIQUE, a int, b int, c int, d int, UNIQUE (b, a));
           CREATE UNIQUE INDEX ON public.profile (c) INCLUDE (d); CREATE UNIQUE INDEX ON public.profile (abs(d));
           CREATE UNIQUE INDEX ON public.profile (d) WHERE a > 0; CREATE INDEX ON public.profile (a);""",
    )
    assert found["profile"].unique == [("id",), ("user_id",), ("b", "a"), ("c",)]


def test_what_a_column_may_hold(bare_database: Database) -> None:
    found = tables(
        bare_database,
        """CREATE DOMAIN public.state AS text CHECK (VALUE IN ('a', 'b'));
           CREATE TABLE public.plan (id int PRIMARY KEY, status public.state CHECK (status <> 'c'), paid_at date);""",
    )
    columns = found["plan"].columns
    assert (columns["id"].nullable, columns["paid_at"].nullable, columns["id"].is_integer) == (False, True, True)
    assert [check.startswith("CHECK (") for check in columns["status"].checks] == [True, True]
    assert known_values(columns["status"]) == ("a", "b")


def test_partitions_are_left_out(bare_database: Database) -> None:
    found = tables(
        bare_database,
        """CREATE TABLE public.plan (id int PRIMARY KEY) PARTITION BY LIST (id);
           CREATE TABLE public.plan_1 PARTITION OF public.plan FOR VALUES IN (1);""",
    )
    assert list(found) == ["plan"]


@pytest.mark.parametrize(
    "type",
    [
        "bigint",
        "numeric",
        "text",
        "char(3)",
        "uuid",
        "boolean",
        "public.progress",
        "public.short",
        "oid",
        "real",
        "money",
        "date",
        "timestamptz",
        "inet",
        "bytea",
        "jsonb",
        "public.day",
    ],
)
def test_a_key_column_is_one_that_watch_accepts(database: Database, type: str) -> None:
    found = tables(
        database,
        f"""CREATE TYPE public.progress AS ENUM ('PE'); CREATE DOMAIN public.short AS varchar(9);
            CREATE DOMAIN public.day AS date; CREATE TABLE public.plan2 (id {type} PRIMARY KEY, status text);""",
    )
    try:
        database.execute(sql.SQL("SELECT pgherald.watch('plan2', 'public.plan2')"))
        accepted = True
    except psycopg.errors.InvalidParameterValue:
        accepted = False
    assert found["plan2"].columns["id"].may_be_key is accepted
