"""The application's role needs no right on the schema, gets none, and cannot borrow its owner's."""

from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from tests.support.database import Database

Session = psycopg.Connection[Any]

# The application's own: every kind of key, so that every way to write a key as text is in some capture function.
TABLES = """
    CREATE TYPE app.kind AS ENUM ('one', 'two');
    CREATE TABLE app.simple (id bigint PRIMARY KEY, status text);
    CREATE TABLE app.worded (id text PRIMARY KEY, status app.kind);
    CREATE TABLE app.mixed (a int, b boolean, c char(4), d uuid, e app.kind, status varchar(2), PRIMARY KEY (a, b, c, d, e));
    CREATE TABLE app.parted (id int, region text, status text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE app.north PARTITION OF app.parted FOR VALUES IN ('north');
    CREATE TABLE app.south PARTITION OF app.parted FOR VALUES IN ('south');
"""
WATCHED = """
    SELECT pgherald.watch('simple', 'app.simple', capture => %(per)s), pgherald.watch('worded', 'app.worded', becomes => '{two}', capture => %(per)s),
           pgherald.watch('mixed', 'app.mixed', '{a,b,c,d,e}', capture => %(per)s), pgherald.watch('parted', 'app.parted', '{id,region}')
"""
WRITES = """
    INSERT INTO app.simple VALUES (1, 'VE'), (2, NULL);
    UPDATE app.simple SET status = 'VE';
    INSERT INTO app.worded VALUES ('x', 'two');
    INSERT INTO app.mixed VALUES (1, true, 'ab', 'c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f3', 'one', 'VE');
    INSERT INTO app.parted VALUES (1, 'north', 'VE'), (2, 'north', 'VE');
    UPDATE app.parted SET region = 'south' WHERE id OPERATOR(pg_catalog.=) 1;
    UPDATE app.parted SET region = 'south', status = 'PE' WHERE id OPERATOR(pg_catalog.=) 2;
    UPDATE app.parted SET region = 'north', status = 'VE' WHERE id OPERATOR(pg_catalog.=) 2;
    DELETE FROM app.parted;
"""
CAPTURED = [
    ("mixed", "{1,true,ab,c7b61e22-8f1b-4b71-9a4d-0c6b8de9a1f3,one}"),
    ("parted", "{1,north}"), ("parted", "{2,north}"), ("parted", "{2,north}"),
    ("simple", "1"), ("simple", "2"), ("worded", "x"),
]  # fmt: skip


def captured(database: Database) -> list[tuple[str, str]]:
    return sorted((event["rule"], event["key"]) for event in database.events())


@pytest.fixture(params=["row", "statement"])
def app(sandbox: Database, application: Session, request: pytest.FixtureRequest) -> Session:
    """The application's session, its tables in schema `app`, its own and watched; all that can be, also per statement."""
    application.execute(TABLES)
    sandbox.execute(WATCHED, {"per": request.param})
    return application


def test_it_can_write_its_rows(app: Session, sandbox: Database) -> None:
    app.execute(WRITES)
    assert captured(sandbox) == CAPTURED


def test_it_may_use_nothing(app: Session, sandbox: Database, role: str) -> None:
    """Neither may anybody else who was not granted it: what PUBLIC may, this role may."""
    assert not sandbox.value("SELECT has_schema_privilege(%s, 'pgherald', 'USAGE, CREATE')", (role,))
    relations = sandbox.execute(
        """SELECT relname FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace AND relkind IN ('r', 'v', 'm', 'p')
              AND (has_table_privilege(%(role)s, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                   OR has_any_column_privilege(%(role)s, oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
           UNION ALL
           SELECT relname FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace
              AND CASE relkind WHEN 'S' THEN has_sequence_privilege(%(role)s, oid, 'USAGE, SELECT, UPDATE') END""",
        {"role": role},
    )
    assert relations == []
    functions = "FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace"
    allowed = sandbox.execute(f"SELECT oid::regprocedure::text {functions} AND has_function_privilege(%s, oid, 'EXECUTE')", (role,))  # fmt: skip
    # It owns the watched tables, so that it can create their partitions. It may not call these, nor name them.
    assert sorted(name for (name,) in allowed) == [
        f"pgherald.capture_{rule}()" for rule in ("mixed", "parted", "simple", "worded")
    ]
    assert sandbox.value(f"SELECT count(*) {functions}") > 10


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT key FROM pgherald.outbox",
        "INSERT INTO pgherald.outbox (rule, key) VALUES ('simple', '7')",
        "UPDATE pgherald.outbox SET key = '7'",
        "DELETE FROM pgherald.outbox",
        "TRUNCATE pgherald.outbox",
        "SELECT value FROM pgherald.secret",
        "SELECT pgherald.version()",
        "SELECT pgherald.watch('mine', 'app.simple')",
        "SELECT pgherald.unwatch('simple')",
        "CALL pgherald.snapshot_existing('simple')",
        "SELECT pgherald.capture_simple()",
        "CREATE TABLE pgherald.mine ()",
    ],
)
def test_it_is_refused(app: Session, statement: Any) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement)


def test_it_cannot_hang_the_capture_function_on_a_table_of_its_own(app: Session, sandbox: Database) -> None:
    """It may not use the schema, so it cannot name the function. A partition gets its trigger by the table's."""
    app.execute("CREATE TABLE app.own (id text, status text)")
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("CREATE TRIGGER t AFTER INSERT ON app.own FOR EACH ROW EXECUTE FUNCTION pgherald.capture_simple()")


def test_another_role_may_not_execute_the_capture_function(app: Session, sandbox: Database) -> None:
    """Not even where it may use the schema: it would write events of its own making."""
    app.execute("CREATE TABLE app.own (id text, status text)")
    with sandbox.connect() as conn, conn.transaction(force_rollback=True):
        conn.execute(
            """ALTER TABLE app.own OWNER TO pg_monitor; GRANT USAGE ON SCHEMA app, pgherald TO pg_monitor;
               SET LOCAL ROLE pg_monitor"""
        )
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute(
                "CREATE TRIGGER t AFTER INSERT ON app.own FOR EACH ROW EXECUTE FUNCTION pgherald.capture_simple()"
            )


@pytest.mark.parametrize("app", ["row"], indirect=True)
def test_it_creates_attaches_and_detaches_partitions(app: Session, sandbox: Database) -> None:
    """Before, both ways failed with: permission denied for function capture_parted."""
    app.execute("CREATE TABLE app.west PARTITION OF app.parted FOR VALUES IN ('west')")
    app.execute("CREATE TABLE app.east (LIKE app.parted INCLUDING ALL)")
    app.execute("ALTER TABLE app.parted ATTACH PARTITION app.east FOR VALUES IN ('east')")
    app.execute("INSERT INTO app.parted VALUES (1, 'west', 'VE'), (2, 'east', 'VE')")
    app.execute("UPDATE app.parted SET region = 'east' WHERE id OPERATOR(pg_catalog.=) 1")
    app.execute("ALTER TABLE app.parted DETACH PARTITION app.east; INSERT INTO app.east VALUES (3, 'east', 'VE')")
    assert captured(sandbox) == [("parted", "{1,west}"), ("parted", "{2,east}")]


@pytest.mark.parametrize("app", ["row"], indirect=True)
def test_a_new_owner_creates_partitions_once_the_rule_is_watched_again(app: Session, sandbox: Database) -> None:
    sandbox.execute("ALTER TABLE app.parted OWNER TO pg_monitor; GRANT USAGE, CREATE ON SCHEMA app TO pg_monitor")
    make = "SET LOCAL ROLE pg_monitor; CREATE TABLE app.west PARTITION OF app.parted FOR VALUES IN ('west')"
    with sandbox.connect() as conn, conn.transaction():
        with pytest.raises(errors.InsufficientPrivilege), conn.transaction():
            conn.execute(make)  # type: ignore[arg-type]
        conn.execute("SELECT pgherald.watch('parted', 'app.parted', '{id,region}')")
        conn.execute(make)  # type: ignore[arg-type]


# Whatever of it is ever called fails the statement, and the test with it.
TRAP = """
    CREATE FUNCTION app.trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped as %', current_user; END $$;
    CREATE DOMAIN app.text AS pg_catalog.text CHECK (app.trap() IS NULL);
    CREATE DOMAIN app.uuid AS pg_catalog.uuid CHECK (app.trap() IS NULL);
"""
TRAPS = [
    *(
        f"concat(pg_catalog.{name}) RETURNS pg_catalog.text"
        for name in ("int4", "int8", "text", "bool", "bpchar", "uuid")
    ),
    "concat(app.kind) RETURNS pg_catalog.text",
    "concat_ws(pg_catalog.text, pg_catalog.timestamptz, pg_catalog.text) RETURNS pg_catalog.text",
    "rtrim(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.text",
    "set_config(pg_catalog.text, pg_catalog.text, pg_catalog.bool) RETURNS pg_catalog.text",
    "current_setting(pg_catalog.text, pg_catalog.bool) RETURNS pg_catalog.text",
    "pg_notify(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.void",
    "pg_try_advisory_xact_lock_shared(pg_catalog.int4, pg_catalog.int4) RETURNS pg_catalog.bool",
    *(f"{name}() RETURNS pg_catalog.timestamptz" for name in ("now", "clock_timestamp", "statement_timestamp")),
    "pg_current_xact_id() RETURNS pg_catalog.xid8",
]


def set_traps(conn: Session) -> None:
    statements = [TRAP]
    statements += (
        f"CREATE FUNCTION app.{trap} LANGUAGE plpgsql AS $$ BEGIN PERFORM app.trap(); END $$" for trap in TRAPS
    )
    for number, name in enumerate(
        ("pg_catalog.text", "pg_catalog.bool", "pg_catalog.bpchar", "pg_catalog.int4", "app.kind")
    ):
        statements.append(
            f"""CREATE FUNCTION app.trap_{number}({name}, {name}) RETURNS pg_catalog.bool
                LANGUAGE plpgsql AS $$ BEGIN PERFORM app.trap(); END $$"""
        )
        statements += (
            f"CREATE OPERATOR app.{operator} (LEFTARG = {name}, RIGHTARG = {name}, FUNCTION = app.trap_{number})"
            for operator in ("=", "<>")
        )
    conn.execute("; ".join(statements))


@pytest.mark.parametrize("asleep", [False, True], ids=["gate open", "gate closed"])
def test_names_early_in_its_search_path_are_not_used(app: Session, sandbox: Database, asleep: bool) -> None:
    set_traps(app)
    app.execute("CREATE TEMPORARY TABLE outbox (rule pg_catalog.text, key pg_catalog.text)")
    for name in ("new_rows", "old_rows"):
        app.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (id pg_catalog.int4, status pg_catalog.text)").format(
                sql.Identifier(name)
            )
        )
    app.execute("CREATE DOMAIN pg_temp.text AS pg_catalog.int4; CREATE DOMAIN pg_temp.bigint AS pg_catalog.int4")
    app.execute("SET search_path = pg_temp, app, pg_catalog")
    with pytest.raises(errors.RaiseException, match="trapped as"):
        app.execute("SELECT 1 WHERE 'a'::pg_catalog.text = 'b'::pg_catalog.text")
    if asleep:
        sandbox.execute("SELECT pg_advisory_lock(726354, 1)")
    for write in WRITES.split(";\n"):
        app.execute(write)
    assert captured(sandbox) == CAPTURED


@pytest.mark.parametrize(
    ("table", "key", "insert"),
    [
        ("app.simple", "id", "VALUES ('one', 'VE')"),
        ("app.mixed", "a", "VALUES ('one', true, 'x', gen_random_uuid(), 'one', 'VE')"),
        ("app.mixed", "b", "VALUES (1, 'one', 'x', gen_random_uuid(), 'one', 'VE')"),
        ("app.mixed", "c", "VALUES (1, true, 'one', gen_random_uuid(), 'one', 'VE')"),
        ("app.mixed", "e", "VALUES (1, true, 'x', gen_random_uuid(), 'one', 'VE')"),
        ("app.parted", "id", "VALUES ('one', 'north', 'VE')"),
    ],
)
def test_its_casts_are_not_used(app: Session, sandbox: Database, table: str, key: str, insert: str) -> None:
    """It owns the table: it can make the key's type its own, and a cast from that, at any time."""
    for name in ("text", "bool", "bpchar"):
        target = sql.Identifier(name)
        app.execute(
            sql.SQL(
                """CREATE FUNCTION app.{0}(app.kind) RETURNS {0}
                       LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped as %', current_user; END $$;
                   CREATE CAST (app.kind AS {0}) WITH FUNCTION app.{0}(app.kind) AS IMPLICIT"""
            ).format(target)
        )
    with pytest.raises(errors.RaiseException, match="trapped as"):
        app.execute("SELECT 'one'::app.kind::text")
    names = {"table": sql.SQL(table), "key": sql.SQL(key), "insert": sql.SQL(insert)}
    app.execute(sql.SQL("ALTER TABLE {table} ALTER {key} TYPE app.kind USING 'one'").format(**names))
    app.execute(sql.SQL("INSERT INTO {table} {insert}").format(**names))
    assert "one" in captured(sandbox)[0][1]


@pytest.mark.parametrize("app", ["statement"], indirect=True)
def test_its_casts_are_not_used_on_the_value(app: Session, sandbox: Database) -> None:
    """A row trigger's WHEN keeps the column's type; nothing keeps it for a statement's."""
    app.execute(
        """CREATE FUNCTION app.text(app.kind) RETURNS text
               LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped as %', current_user; END $$;
           CREATE CAST (app.kind AS text) WITH FUNCTION app.text(app.kind) AS IMPLICIT;
           ALTER TYPE app.kind ADD VALUE 'VE'"""
    )
    app.execute("ALTER TABLE app.simple ALTER status TYPE app.kind USING NULL")
    app.execute("INSERT INTO app.simple VALUES (1, 'VE'), (2, 'one'); UPDATE app.simple SET status = 'VE'")
    assert captured(sandbox) == [("simple", "1"), ("simple", "2")]


def test_the_capture_function_is_its_owners(app: Session, sandbox: Database) -> None:
    rows = sandbox.execute(
        """SELECT p.prosecdef, p.proowner = c.relowner, p.proconfig FROM pg_proc AS p, pg_class AS c
            WHERE p.pronamespace = 'pgherald'::regnamespace AND p.proname LIKE 'capture\\_%%'
              AND p.prorettype = 'trigger'::regtype AND c.oid = 'pgherald.outbox'::regclass""",
        (),
    )
    assert rows == [(True, True, None)] * 5
