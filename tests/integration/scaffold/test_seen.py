"""The values that the rows of a real table have, for the operator to choose from."""

from listener.db.connection import connect
from listener.scaffold.catalog import read_tables
from listener.scaffold.seen import MAX_ROWS, MAX_VALUES, read_values
from tests.support.database import Database


def seen(database: Database, statements: str, role: str = "") -> tuple[str, ...]:
    database.execute(statements)  # type: ignore[arg-type]
    with connect(database.url) as conn:
        [table] = read_tables(conn)
        if role:
            conn.execute(f"SET ROLE {role}")  # type: ignore[arg-type]
        values = read_values(conn, table, table.columns["status"])
        assert conn.execute("SELECT 1").fetchone() == (1,), "the connection is of no use any more"
    return values


def test_values_of_rows(bare_database: Database) -> None:
    made = """CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."Order" (id int, status text);
              INSERT INTO "Odd"."Order" VALUES (1, 'paid'), (2, 'o''pen'), (3, 'paid'), (4, NULL)"""
    assert seen(bare_database, made) == ("o'pen", "paid")
    assert seen(bare_database, 'ALTER TABLE "Odd"."Order" ALTER status TYPE int USING length(status)') == ("4", "5")
    assert seen(bare_database, 'TRUNCATE "Odd"."Order"') == ()


def test_values_that_only_the_statistics_have(bare_database: Database) -> None:
    made = f"""CREATE TABLE orders (id int, status text) WITH (autovacuum_enabled = off);
               INSERT INTO orders SELECT n, CASE WHEN n > {MAX_ROWS} THEN 'shipped' ELSE 'open' END
                 FROM generate_series(1, {MAX_ROWS} + 3000) AS n"""
    assert seen(bare_database, made) == ("open",)
    assert seen(bare_database, "ANALYZE orders") == ("open", "shipped")


def test_what_is_no_state(bare_database: Database) -> None:
    made = "CREATE TABLE orders (id int, status text)"
    many = f"INSERT INTO orders SELECT n, 'value ' || n FROM generate_series(0, {MAX_VALUES}) AS n"
    assert seen(bare_database, f"{made}; {many}") == ()
    assert len(seen(bare_database, "DELETE FROM orders WHERE id = 0")) == MAX_VALUES
    assert seen(bare_database, "UPDATE orders SET status = repeat('x', 41) WHERE id = 1") == ()


def test_without_the_right_to_read(bare_database: Database) -> None:
    made = "CREATE TABLE orders (id int, status text); INSERT INTO orders VALUES (1, 'open')"
    assert seen(bare_database, made) == ("open",)
    assert seen(bare_database, "ANALYZE orders", "pg_monitor") == ()


def test_a_table_that_is_locked_is_not_waited_for(bare_database: Database) -> None:
    bare_database.execute("CREATE TABLE orders (id int, status text); INSERT INTO orders VALUES (1, 'open')")
    with bare_database.connect().transaction() as held:
        held.connection.execute("LOCK TABLE orders")
        assert seen(bare_database, "SELECT") == ()
