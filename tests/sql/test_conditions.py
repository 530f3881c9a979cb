"""A rule's state as a condition in SQL: how it is understood, what is refused, and what becomes of it later."""

import contextlib
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.support.database import Database

TABLE = """
    CREATE TABLE app.orders (id int PRIMARY KEY, status text, total numeric, eta date, at timestamptz, data jsonb);
    INSERT INTO app.orders (id, status, total) VALUES (1, 'packed', 100), (2, 'shipped', 100);
"""
WHEN = "new.status = 'shipped' AND new.total >= 100"


@pytest.fixture
def orders(sandbox: Database) -> Database:
    sandbox.execute(TABLE)
    return sandbox


def watch(database: Database, when: str = WHEN, **arguments: object) -> None:
    named = {"when": when, **arguments}
    call = sql.SQL("SELECT pgherald.watch('orders', 'app.orders', {})").format(
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in named.items()
        )
    )
    database.execute(call.as_string(None))  # type: ignore[arg-type]


def captured(database: Database) -> list[str]:
    return [event["key"] for event in database.events()]


REFUSED = {
    "new.at < now()": "may change without a change of the row",
    "new.total > random()": "may change without a change of the row",
    "new.at::date = '2026-01-01'": "may change without a change of the row",
    "new.at < 'now'": "present time",
    "new.at < ' Tomorrow '": "present time",
    "new.total > (SELECT 1)": "cannot use subquery",
    "new.total > count(*)": "aggregate functions are not allowed",
    "row_number() OVER () = new.id": "window functions are not allowed",
    "generate_series(1, new.id) = 1": "set-returning functions are not allowed",
    "new.id = 1 AND new.xmin IS NOT NULL": "system column",
    "new.id = 1 AND new.tableoid = 1": "system column",
    "new.id = 1 AND new IS NOT NULL": "whole row",
    "old.id = 1": "only new has a value",
    "new.foo = 1": "column new.foo does not exist",
    "new.id": "must be type boolean",
    "status = 'shipped'": 'column reference "status" is ambiguous',
    "true": "names no column",
    "": "is empty",
    "new.id = 1)": "brackets that do not match",
    "new.id = 1) OR (true": "brackets that do not match",
    "new.id = 1; SELECT 1": "semicolon",
    "new.id = 1 -- all": "comment",
    "new.id = 1 /* all */": "comment",
    "new.status = $$a$$": r"has a \$",
    "new.status = E'\\n'": "has a text E",
    "new.status = 'a": "quote without its end",
}


@pytest.mark.parametrize("when", REFUSED)
def test_a_condition_that_no_trigger_can_keep_is_refused(orders: Database, when: str) -> None:
    with pytest.raises(psycopg.Error, match=f'rule "orders": "when".*{REFUSED[when]}'):
        watch(orders, when)
    assert orders.execute("SELECT count(*) FROM pgherald.rule WHERE rule = 'orders'") == [(0,)]
    assert orders.execute("SELECT to_regclass('pgherald.new')") == [(None,)]


HOSTILE = [
    "new.id = 1) EXECUTE FUNCTION pgherald.raise_check_violation(); SELECT nextval('app.ticks'); "
    "CREATE TRIGGER planted AFTER INSERT ON pgherald.new FOR EACH ROW WHEN (new.id = 1",
    "true) EXECUTE FUNCTION pgherald.raise_check_violation(); CREATE TABLE app.planted (); --",
    "new.id = 1) EXECUTE FUNCTION f(); CREATE TABLE app.planted (); SELECT (1",
    "new.status = '\\') OR true); CREATE TABLE app.planted (); --'')",
    "new.status = E'\\') EXECUTE FUNCTION f(); CREATE TABLE app.planted (); --'",
    "new.status = \"a\" || $q$ ' $q$) EXECUTE FUNCTION f(); CREATE TABLE app.planted (); -- '",
    "new.status = ' /* ') EXECUTE FUNCTION f(); CREATE TABLE app.planted (); /* ' */",
]


@pytest.mark.parametrize("when", HOSTILE)
@pytest.mark.parametrize("conforming", ["on", "off"])
def test_a_condition_cannot_end_its_statement(orders: Database, when: str, conforming: str) -> None:
    orders.execute("CREATE SEQUENCE app.ticks")
    if conforming == "off" and orders.value("SELECT current_setting('server_version_num')::integer") >= 190000:
        pytest.skip("PostgreSQL 19 has no other string literals")
    with psycopg.connect(orders.url, autocommit=True) as conn:
        conn.execute(f"SET standard_conforming_strings = {conforming}; SET backslash_quote = on")  # type: ignore[arg-type]
        with contextlib.suppress(psycopg.Error):
            conn.execute("SELECT pgherald.watch('orders', 'app.orders', \"when\" => %s)", (when,))
    assert orders.execute("SELECT to_regclass('app.planted'), is_called FROM app.ticks") == [(None, False)]


def test_the_table_owners_functions_do_not_run_with_the_installers_rights(sandbox: Database, role: str) -> None:
    """The server computes constant parts of the condition when it checks it."""
    sandbox.execute(
        sql.SQL(
            """CREATE TABLE app.orders (id int PRIMARY KEY, status text); ALTER TABLE app.orders OWNER TO {0};
               CREATE TABLE app.spoils (who text); GRANT ALL ON app.spoils TO {0}; GRANT USAGE, CREATE ON SCHEMA app TO {0};
               CREATE FUNCTION app.constant(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
                   $$ BEGIN RAISE NOTICE 'ran as %', current_user; RETURN 1; END $$;
               ALTER FUNCTION app.constant(int) OWNER TO {0}"""
        )
        .format(sql.Identifier(role))
        .as_string(None)  # type: ignore[arg-type]
    )
    said: list[str] = []
    with psycopg.connect(sandbox.url, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        conn.execute("SELECT pgherald.watch('orders', 'app.orders', \"when\" => 'new.id > app.constant(7)')")
    assert set(said) <= {f"ran as {role}"}
    sandbox.execute("INSERT INTO app.orders VALUES (2, 'x'), (1, 'x')")
    assert captured(sandbox) == ["2"]


def test_columns_and_conditions_exclude_each_other(orders: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="says the state, and so do"):
        watch(orders, becomes=["VE"])
    with pytest.raises(psycopg.errors.UndefinedColumn, match='has no column "nope"'):
        watch(orders, changes=["nope"])
    orders.execute("ALTER TABLE app.orders ADD spot point")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be compared"):
        watch(orders, changes=["spot"])


@pytest.mark.parametrize("capture", ["row", "statement"])
def test_nobodys_search_path_matters(orders: Database, capture: str) -> None:
    orders.execute(
        """DROP SCHEMA IF EXISTS evil CASCADE; CREATE SCHEMA evil; CREATE FUNCTION evil.yes(text, text) RETURNS boolean IMMUTABLE LANGUAGE sql RETURN true;
           CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);"""
    )
    with psycopg.connect(orders.url, autocommit=True) as conn:
        conn.execute("SET search_path = evil, pg_catalog")
        conn.execute(
            "SELECT pgherald.watch('orders', 'app.orders', \"when\" => %s, \"from\" => %s, capture => %s)",
            (WHEN, "old.status = 'packed'", capture),
        )
        conn.execute("UPDATE app.orders SET status = 'other' WHERE id OPERATOR(pg_catalog.=) 1")
        conn.execute("UPDATE app.orders SET status = 'shipped' WHERE id OPERATOR(pg_catalog.=) 1")
        conn.execute("UPDATE app.orders SET status = 'packed'")
        assert captured(orders) == []
        conn.execute("UPDATE app.orders SET status = 'shipped'")
    assert sorted(captured(orders)) == ["1", "2"]


@pytest.mark.parametrize("capture", ["row", "statement"])
def test_a_role_without_rights_on_the_schema_writes(orders: Database, role: str, capture: str) -> None:
    watch(orders, capture=capture, changes=["eta"], **{"from": "old.status = 'packed'"})
    orders.execute(
        sql.SQL("GRANT USAGE ON SCHEMA app TO {0}; GRANT ALL ON app.orders TO {0}")
        .format(sql.Identifier(role))
        .as_string(None)  # type: ignore[arg-type]
    )
    with psycopg.connect(orders.url, autocommit=True) as conn:
        conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        conn.execute("UPDATE app.orders SET status = 'shipped' WHERE id = 1")
        conn.execute("UPDATE app.orders SET eta = '2026-01-01' WHERE id = 2")
        conn.execute("INSERT INTO app.orders (id, status, total) VALUES (3, 'shipped', 100)")
    assert captured(orders) == ["1", "2"]


MIGRATIONS: dict[str, LiteralString] = {
    "renames the column": "ALTER TABLE app.orders RENAME status TO state",
    "adds a column": "ALTER TABLE app.orders ADD extra text DEFAULT 'x'",
    "drops another column": "ALTER TABLE app.orders DROP data",
    "renames the table": "ALTER TABLE app.orders RENAME TO sales",
    "drops the table": "DROP TABLE app.orders",
    "swaps the table": "CREATE TABLE app.sales (LIKE app.orders); DROP TABLE app.orders; ALTER TABLE app.sales RENAME TO orders",
    "drops a type": "ALTER TABLE app.orders DROP kind; DROP TYPE app.kind",
    "drops the schema": "DROP SCHEMA app CASCADE; CREATE SCHEMA app",
}


@pytest.mark.parametrize("capture", ["row", "statement"])
@pytest.mark.parametrize("migration", MIGRATIONS)
def test_no_migration_fails_because_of_a_condition(orders: Database, migration: str, capture: str) -> None:
    orders.execute("CREATE TYPE app.kind AS ENUM ('a'); ALTER TABLE app.orders ADD kind app.kind")
    watch(orders, capture=capture, **{"from": "old.status = 'packed'"})
    orders.execute(MIGRATIONS[migration])
    orders.execute("SELECT pgherald.unwatch('orders')")
    assert orders.execute("SELECT count(*) FROM pg_proc WHERE proname IN ('state_orders', 'from_orders')") == [(0,)]


def test_a_row_trigger_follows_a_renamed_column(orders: Database) -> None:
    watch(orders)
    orders.execute("ALTER TABLE app.orders RENAME status TO state")
    orders.execute("UPDATE app.orders SET state = 'shipped'")
    assert captured(orders) == ["1"]
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        orders.execute("ALTER TABLE app.orders DROP state")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="used in a trigger definition"):
        orders.execute("ALTER TABLE app.orders ALTER total TYPE bigint")
    # The page of rows for backfill has the present name too.
    assert "t.state" in orders.execute("SELECT pgherald.page_query('orders', NULL)")[0][0]


RETYPED: dict[str, LiteralString] = {
    "renamed": "ALTER TABLE app.orders RENAME status TO state",
    "dropped": "ALTER TABLE app.orders DROP total",
    "retyped": "ALTER TABLE app.orders ALTER total TYPE text",
    "of a type with a cast of its own": """
        CREATE TYPE app.trap AS (n int);
        CREATE FUNCTION app.sprung(app.trap) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung'; END $$;
        CREATE CAST (app.trap AS numeric) WITH FUNCTION app.sprung(app.trap) AS IMPLICIT;
        ALTER TABLE app.orders ALTER total TYPE app.trap USING ROW(1)::app.trap""",
}


@pytest.mark.parametrize("change", RETYPED)
def test_per_statement_no_write_fails_after_a_change(orders: Database, change: str) -> None:
    """Nothing is captured until the rule is watched again. The catalog says which column it is."""
    watch(orders, capture="statement", **{"from": "old.status = 'packed'"})
    with psycopg.connect(orders.url, autocommit=True) as writer:
        writer.execute("UPDATE app.orders SET status = 'shipped' WHERE id = 1")
        assert captured(orders) == ["1"]
        orders.execute(RETYPED[change])
        for _ in range(7):
            writer.execute("UPDATE app.orders SET eta = '2026-01-01'")
            writer.execute("INSERT INTO app.orders (id) SELECT max(id) + 1 FROM app.orders")
    assert captured(orders) == ["1"]


@pytest.mark.parametrize("capture", ["row", "statement"])
def test_rewatch_keeps_what_is_known_of_the_rule(orders: Database, capture: str) -> None:
    watch(orders, capture=capture)
    orders.execute("CALL pgherald.snapshot_existing('orders')")
    orders.execute("UPDATE pgherald.rule SET paused_at = now() WHERE rule = 'orders'")
    orders.execute("ALTER TABLE app.orders RENAME status TO state")
    orders.execute(
        """SELECT pgherald.rewatch('orders', 'app.orders', "when" => 'new.state = ''shipped'' AND new.total >= 100',
                                   capture => %s)""",
        (capture,),
    )
    assert orders.execute("SELECT paused_at IS NOT NULL, snapshot_done FROM pgherald.rule WHERE rule = 'orders'") == [
        (True, True)
    ]
    assert orders.execute("SELECT key, why FROM pgherald.handled WHERE rule = 'orders'") == [("2", "existing")]
    orders.execute("UPDATE app.orders SET state = 'shipped'")
    assert captured(orders) == ["1"]


def test_watching_again_changes_nothing(orders: Database) -> None:
    for capture in ("row", "statement"):
        watch(orders, capture=capture, changes=["eta"], **{"from": "old.status = 'packed'"})
        marks = """SELECT xmin::text, oid::text FROM pg_proc WHERE proname IN ('capture_orders', 'state_orders', 'from_orders')
                    UNION ALL SELECT xmin::text, oid::text FROM pg_trigger WHERE tgrelid = 'app.orders'::regclass
                    UNION ALL SELECT xmin::text, rule FROM pgherald.rule"""
        before = sorted(orders.execute(marks))  # type: ignore[arg-type]
        watch(orders, capture=capture, changes=["eta"], **{"from": "old.status = 'packed'"})
        assert sorted(orders.execute(marks)) == before  # type: ignore[arg-type]


def test_another_from_or_other_changes_replace_the_triggers_and_keep_the_rows(orders: Database) -> None:
    watch(orders)
    orders.execute("CALL pgherald.snapshot_existing('orders')")
    watch(orders, changes=["eta"], **{"from": "old.status = 'packed'"})
    assert orders.execute("SELECT snapshot_done FROM pgherald.rule WHERE rule = 'orders'") == [(True,)]
    orders.execute("UPDATE app.orders SET eta = '2026-01-01'")
    assert captured(orders) == ["2"]
    watch(orders, when="new.status = 'packed'")
    assert orders.execute("SELECT snapshot_done FROM pgherald.rule WHERE rule = 'orders'") == [(False,)]


def test_only_rows_in_the_state_are_recorded_as_existing(orders: Database) -> None:
    orders.execute("INSERT INTO app.orders (id, status, total) VALUES (3, 'shipped', 99), (4, NULL, NULL)")
    watch(orders)
    orders.execute("CALL pgherald.snapshot_existing('orders')")
    assert orders.execute("SELECT key FROM pgherald.handled WHERE rule = 'orders'") == [("2",)]


def test_inherited_tables_have_the_condition_too(orders: Database) -> None:
    orders.execute("CREATE TABLE app.big (extra text) INHERITS (app.orders)")
    watch(orders, **{"from": "old.status = 'packed'"})
    orders.execute("INSERT INTO app.big (id, status, total) VALUES (7, 'packed', 100), (8, 'shipped', 100)")
    orders.execute("UPDATE app.orders SET status = 'shipped'")
    assert sorted(captured(orders)) == ["1", "7"]


def test_a_virtual_column(orders: Database) -> None:
    if orders.execute("SELECT current_setting('server_version_num')::int") < [(180000,)]:
        pytest.skip("the first PostgreSQL with virtual columns is 18")
    orders.execute("ALTER TABLE app.orders ADD large boolean GENERATED ALWAYS AS (total >= 100) VIRTUAL")
    watch(orders, "new.large AND new.status = 'shipped'")
    orders.execute("UPDATE app.orders SET status = 'shipped'")
    orders.execute("UPDATE app.orders SET total = 99")
    orders.execute("UPDATE app.orders SET total = 101 WHERE id = 2")
    assert captured(orders) == ["1", "2"]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="virtual generated"):
        watch(orders, "new.large", capture="statement")


def test_what_per_statement_cannot_read_is_refused(orders: Database) -> None:
    orders.execute("CREATE TYPE app.kind AS ENUM ('a'); CREATE DOMAIN app.code AS text")
    orders.execute("ALTER TABLE app.orders ADD kind app.kind, ADD code app.code")
    orders.execute("CREATE FUNCTION app.f(int) RETURNS boolean IMMUTABLE LANGUAGE sql RETURN true")
    for when in ("new.kind = 'a'", "new.code = 'a'", "app.f(new.id)"):
        watch(orders, when)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match=r'rule "orders".*per statement'):
            watch(orders, when, capture="statement")


@pytest.mark.parametrize("capture", ["row", "statement"])
def test_a_text_that_looks_like_a_name_stays_a_text(orders: Database, capture: str) -> None:
    watch(orders, "new.status = 'new.x old.y'", capture=capture, **{"from": "old.status = 'is old.z ''new.'"})
    orders.execute("""UPDATE app.orders SET status = 'is old.z ''new.' WHERE id = 1""")
    orders.execute("UPDATE app.orders SET status = 'new.x old.y'")
    orders.execute("UPDATE app.orders SET eta = '2026-01-01'")
    assert captured(orders) == ["1"]
