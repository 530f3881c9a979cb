"""Keys, columns and values of each type that can be watched, under any name. The others are refused with the reason."""

from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from listener.config.keys import array_literal
from tests.support.database import Database

TYPES = """
    CREATE TYPE app.kind AS ENUM ('PE', 'VE', 'O''Neil, "Jr"');
    CREATE DOMAIN app.token AS uuid;
    CREATE DOMAIN app.short AS text;
    CREATE DOMAIN app.code AS app.short CHECK (value IN ('PE', 'AC', 'VE'));
    CREATE DOMAIN app.never AS text CHECK (value IN ('PE', 'AC'));
    CREATE DOMAIN app.kind_domain AS app.kind;
    CREATE DOMAIN app.padded AS char(6);
    CREATE DOMAIN app.ratio AS float8;
"""
UUID = "c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f3"
ODD = 'a,b "c" {d} \\e NULL é'

KEYS: list[tuple[str, str, str]] = [
    ("smallint", "-7", "-7"),
    ("integer", "7", "7"),
    ("bigint", "9007199254740993", "9007199254740993"),
    ("numeric(10,2)", "1234567.5", "1234567.50"),
    ("uuid", UUID.upper(), UUID),
    ("text", ODD, ODD),
    ("text", "", ""),
    ("varchar(20)", "x y ", "x y "),
    ("char(6)", "ab", "ab"),
    ("name", "ab", "ab"),
    ("boolean", "t", "true"),
    ("boolean", "f", "false"),
    ("app.kind", 'O\'Neil, "Jr"', 'O\'Neil, "Jr"'),
    ("app.token", UUID, UUID),
    ("app.code", "AC", "AC"),
    ("app.padded", "ab", "ab"),
    ("app.kind_domain", "VE", "VE"),
]

STATUSES: list[tuple[str, str, str]] = [
    ("text", "VE", "PE"),
    ("text", 'it\'s 100%s of \\ "$$"', "PE"),
    ("varchar(2)", "VE", "PE"),
    ("char(2)", "VE", "PE"),
    ("char(6)", "VE", "PE"),
    ("name", "VE", "PE"),
    ("app.kind", "VE", "PE"),
    ("app.code", "VE", "PE"),
    ("app.kind_domain", "VE", "PE"),
    ("app.padded", "VE", "PE"),
    ("integer", "5", "4"),
    ("smallint", "5", "4"),
    ("numeric(5,2)", "5", "5.01"),
    ("boolean", "true", "false"),
    ("date", "2025-02-14", "2025-02-15"),
    ("uuid", UUID.upper(), "c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f4"),
]


@pytest.fixture
def typed(sandbox: Database) -> Database:
    sandbox.execute(TYPES)
    return sandbox


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


@pytest.mark.parametrize(("type_", "given", "text"), KEYS)
def test_key(typed: Database, type_: str, given: str, text: str) -> None:
    """As a cast to text gives it, which is how lookups and people name it; snapshot_existing() writes it alike."""
    typed.execute(sql.SQL("CREATE TABLE app.plans (id {} PRIMARY KEY, status text)").format(sql.SQL(type_)))
    typed.execute("INSERT INTO app.plans VALUES (%s, 'VE')", (given,))
    typed.execute("SELECT pgherald.watch('typed', 'app.plans')")
    for _ in range(2):
        typed.execute("CALL pgherald.snapshot_existing('typed', 1)")
    assert typed.execute("SELECT key FROM pgherald.handled") == [(text,)]
    typed.execute("UPDATE app.plans SET status = 'PE'; UPDATE app.plans SET status = 'VE'")
    assert captured(typed) == [text]
    assert typed.value("SELECT id::text FROM app.plans") == text


def test_composite_key_is_an_array_literal(typed: Database) -> None:
    typed.execute(
        """CREATE TABLE app.plans (status text, n integer, t text, u uuid, e text, k app.kind, c char(4), b boolean,
                                   PRIMARY KEY (n, t, u, e, k, c, b));
           SELECT pgherald.watch('typed', 'app.plans', '{t,n,u,e,k,c,b}')"""
    )
    for odd in (ODD, "null", "", " ", "plain", "a}b", "\n"):
        parts = [odd, 7, UUID, "", "VE", "ab", True]
        typed.execute(
            "INSERT INTO app.plans (status, t, n, u, e, k, c, b) VALUES ('VE', %s, %s, %s, %s, %s, %s, %s)", parts
        )
        assert captured(typed)[-1] == array_literal([odd, "7", UUID, "", "VE", "ab", "true"])
        assert typed.value("SELECT max(key)::text[] FROM pgherald.outbox")[1] == "7"


SEVERAL_TEXTS = ("numeric(5,2)", "date")


@pytest.mark.parametrize("per", ["row", "statement"])
@pytest.mark.parametrize(("type_", "value", "other"), STATUSES)
def test_status(typed: Database, type_: str, value: str, other: str, per: str) -> None:
    typed.execute(sql.SQL("CREATE TABLE app.plans (id int PRIMARY KEY, status {})").format(sql.SQL(type_)))
    watch = ("SELECT pgherald.watch('typed', 'app.plans', becomes => ARRAY[%s], capture => %s)", (value, per))
    if per == "statement" and type_ in SEVERAL_TEXTS:
        with pytest.raises(errors.InvalidParameterValue, match="several texts for one value"):
            typed.execute(*watch)
        return
    typed.execute(*watch)
    typed.execute("INSERT INTO app.plans VALUES (1, %s), (2, %s), (3, NULL)", (value, other))
    assert captured(typed) == ["1"]
    typed.execute("UPDATE app.plans SET status = %s", (value,))
    assert sorted(captured(typed)) == ["1", "2", "3"]
    typed.execute("UPDATE app.plans SET status = %s", (other,))
    assert len(captured(typed)) == 3


@pytest.mark.parametrize("type_", ["varchar(3)", "char(3)"])
def test_a_value_too_long_for_its_column_is_not_cut_to_fit(typed: Database, type_: str) -> None:
    typed.execute(sql.SQL("CREATE TABLE app.plans (id int PRIMARY KEY, status {})").format(sql.SQL(type_)))
    typed.execute("SELECT pgherald.watch('typed', 'app.plans', becomes => '{VERIFIED}')")
    typed.execute("INSERT INTO app.plans VALUES (1, 'VER')")
    assert captured(typed) == []


def test_a_value_that_a_domain_forbids_breaks_no_write(typed: Database) -> None:
    typed.execute("CREATE TABLE app.plans (id app.never PRIMARY KEY, status app.never)")
    typed.execute("SELECT pgherald.watch('typed', 'app.plans')")
    typed.execute("CALL pgherald.snapshot_existing('typed')")
    typed.execute("INSERT INTO app.plans VALUES ('PE', 'PE'); UPDATE app.plans SET status = 'AC'")
    assert captured(typed) == []


@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
def test_a_generated_status(sandbox: Database, kind: str) -> None:
    needs_virtual_columns(sandbox, kind)
    sandbox.execute(
        f"""CREATE TABLE app.plans (id int PRIMARY KEY, votes int,
                                    status text GENERATED ALWAYS AS (CASE WHEN votes > 2 THEN 'VE' ELSE 'PE' END) {kind});
            SELECT pgherald.watch('typed', 'app.plans');
            INSERT INTO app.plans VALUES (1, 1), (2, 3)"""
    )
    assert captured(sandbox) == ["2"]
    sandbox.execute("UPDATE app.plans SET votes = votes + 2")
    assert captured(sandbox) == ["2", "1"]


def needs_virtual_columns(database: Database, kind: str = "VIRTUAL") -> None:
    if kind == "VIRTUAL" and int(database.value("SHOW server_version_num")) < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")


def test_a_virtual_key_is_refused(sandbox: Database) -> None:
    """A trigger finds NULL in it (manual, 37.1)."""
    needs_virtual_columns(sandbox)
    sandbox.execute("CREATE TABLE app.plans (n int, id int GENERATED ALWAYS AS (n * 2) VIRTUAL NOT NULL, status text)")
    with pytest.raises(errors.InvalidParameterValue, match="which no trigger sees"):
        sandbox.execute("SELECT pgherald.watch('typed', 'app.plans')")


@pytest.mark.parametrize(
    ("schema", "table", "key", "column", "value"),
    [
        ("My Schema", "Date Plan", "Id", "Status", "VE"),
        ("100%s", "%I %1$s", "%L%%", "%s", "100%"),
        ('a"b', "it's", "k\"'", "$$x$$", "'); DROP SCHEMA pgherald; --"),
        ("ünï", "select", "new", "old", "VE"),
        ("app.x", "a.b", "tg_op", "rule", "VE"),
    ],
)
def test_names(sandbox: Database, schema: str, table: str, key: str, column: str, value: str) -> None:
    target, key_, column_ = sql.Identifier(schema, table), sql.Identifier(key), sql.Identifier(column)
    sandbox.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    try:
        sandbox.execute(sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY, {} text)").format(target, key_, column_))
        sandbox.execute(sql.SQL("INSERT INTO {} VALUES (1, {})").format(target, value))
        name = target.as_string()
        sandbox.execute("SELECT pgherald.watch('named', %s, %s, %s, ARRAY[%s])", (name, [key], column, value))
        sandbox.execute("CALL pgherald.snapshot_existing('named')")
        assert sandbox.execute("SELECT key FROM pgherald.handled") == [("1",)]
        sandbox.execute(sql.SQL("UPDATE {} SET {} = 'PE'").format(target, column_))
        sandbox.execute(sql.SQL("UPDATE {} SET {} = {}").format(target, column_, value))
        assert captured(sandbox) == ["1"]
        sandbox.execute("SELECT pgherald.watch('named', %s, %s, %s, ARRAY[%s])", (name, [key], column, value))
        sandbox.execute("SELECT pgherald.unwatch('named')")
    finally:
        sandbox.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


THINGS = """
    CREATE TABLE app.plans (
        id int PRIMARY KEY, status text, kind app.kind, nullable int UNIQUE, n int NOT NULL, at timestamptz NOT NULL,
        local timestamp NOT NULL, day date NOT NULL, span interval NOT NULL, f4 float4 NOT NULL, f8 float8 NOT NULL,
        ratio app.ratio NOT NULL, price money NOT NULL, doc jsonb NOT NULL, raw bytea NOT NULL, "list" int[] NOT NULL,
        gone int NOT NULL);
    ALTER TABLE app.plans DROP COLUMN gone;
    CREATE VIEW app.view AS TABLE app.plans;
    CREATE MATERIALIZED VIEW app.matview AS SELECT id, status FROM app.plans;
    CREATE SEQUENCE app.sequence;
    CREATE FOREIGN DATA WRAPPER nothing;
    CREATE SERVER nothing FOREIGN DATA WRAPPER nothing;
    CREATE FOREIGN TABLE app.remote (id int NOT NULL, status text) SERVER nothing;
"""
SETTINGS = "whose text depends on the session's settings"

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"table": "app.view"}, "42809", 'rule "refused": app.view is not a table'),
    ({"table": "app.matview"}, "42809", "app.matview is not a table"),
    ({"table": "app.sequence"}, "42809", "app.sequence is not a table"),
    ({"table": "app.remote"}, "42809", "app.remote is not a table"),
    ({"table": "app.plans_pkey"}, "42809", "app.plans_pkey is not a table"),
    ({"table": None}, "42809", "<NULL> is not a table"),
    ({"table": "app.nowhere"}, "42P01", 'relation "app.nowhere" does not exist'),
    ({"column": "nothing"}, "42703", 'rule "refused": table app.plans has no column "nothing"'),
    ({"column": "gone"}, "42703", 'table app.plans has no column "gone"'),
    ({"column": "ctid"}, "42703", 'table app.plans has no column "ctid"'),
    ({"column": "Status"}, "42703", 'table app.plans has no column "Status"'),
    ({"key": ["nothing"]}, "42703", 'table app.plans has no column "nothing"'),
    ({"key": ["id", "nothing"]}, "42703", 'table app.plans has no column "nothing"'),
    ({"key": []}, "22023", "no key column is named"),
    ({"key": None}, "22023", "no key column is named"),
    ({"key": ["nullable"]}, "22023", 'key column "nullable" of app.plans may be NULL'),
    ({"key": ["id", "nullable"]}, "22023", 'key column "nullable" of app.plans may be NULL'),
    ({"key": ["at"]}, "22023", f'key column "at" of app.plans is of type timestamp with time zone, {SETTINGS}'),
    *(({"key": [name]}, "22023", SETTINGS) for name in ("local", "day", "span", "f4", "f8", "ratio", "price", "doc", "raw", "list")),
    ({"column": "kind", "becomes": ["XX"]}, "22P02", 'invalid input value for enum app.kind: "XX"'),
    ({"column": "n", "becomes": ["VE"]}, "22P02", 'invalid input syntax for type integer: "VE"'),
    ({"becomes": ["VE", None]}, "22023", '"becomes" names no value, or NULL'),
    ({"becomes": []}, "22023", '"becomes" names no value, or NULL'),
    *(
        ({"rule": rule}, "22023", f'rule "{rule}": a rule\'s name is a small letter, then up to 39')
        for rule in ("", "Verified", "1st", "_x", "a-b", "a b", "a.b", "a" * 41, 'x"; DROP', "x'", "é", "a\n")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "reason"), REFUSED, ids=[str(change) for change, _, _ in REFUSED])
def test_refused_with_the_reason_and_without_a_trace(
    typed: Database, change: dict[str, Any], code: str, reason: str
) -> None:
    typed.execute(THINGS)
    traces = """SELECT (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pgherald.rule)"""
    before = typed.execute(traces)
    call = {"rule": "refused", "table": "app.plans", "key": ["id"], "column": "status", "becomes": ["VE"], **change}
    try:
        with pytest.raises(psycopg.Error) as caught:
            typed.execute(
                "SELECT pgherald.watch(%(rule)s, %(table)s, %(key)s::text[], %(column)s, %(becomes)s::text[])", call
            )
    finally:
        typed.execute("DROP FOREIGN DATA WRAPPER nothing CASCADE")
    assert reason in (caught.value.diag.message_primary or "")
    assert caught.value.sqlstate == code
    assert typed.execute(traces) == before


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("'app.view'", "A view has no row triggers that see a change; watch the table behind it."),
        ("'app.plans', '{nullable}'", "Name the primary key's columns."),
        ("'app.plans', '{at}'", "Name key columns of integer, numeric, text, uuid or enum type."),
    ],
)
def test_a_refusal_says_what_to_do(typed: Database, call: str, hint: str) -> None:
    typed.execute(
        """CREATE TABLE app.plans (id int PRIMARY KEY, status text, nullable int, at timestamptz NOT NULL);
           CREATE VIEW app.view AS TABLE app.plans"""
    )
    with pytest.raises(psycopg.Error) as caught:
        typed.execute(sql.SQL("SELECT pgherald.watch('refused', {})").format(sql.SQL(call)))
    assert caught.value.diag.message_hint == hint


def test_the_longest_name(sandbox: Database) -> None:
    rule = "a" + "9_" * 19 + "z"
    assert len(rule) == 40
    sandbox.execute(
        "CREATE TABLE app.plans (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)"
    )
    sandbox.execute("CREATE TABLE app.rest PARTITION OF app.plans DEFAULT")
    sandbox.execute("SELECT pgherald.watch(%s, 'app.plans', '{id,region}')", (rule,))
    sandbox.execute("INSERT INTO app.plans VALUES (1, 'north', 'VE')")
    assert captured(sandbox) == ["{1,north}"]
