"""The rules that a database watches, as `init` reads them."""

from listener.db.connection import connect
from listener.scaffold.watched import WatchedRule, choose_watched, read_watched
from tests.support.database import STORY, Database, install_triggers


def test_the_rules_of_an_installed_schema(bare_database: Database) -> None:
    with bare_database.connect() as conn:
        conn.execute(STORY)
    with connect(bare_database.url) as conn:
        assert read_watched(conn) == [], "without the schema"
        install_triggers(conn)
        conn.execute("SELECT pgherald.watch('mine', 'public.dateplan', '{id}', 'status', '{CA}')")
        assert read_watched(conn) == [
            WatchedRule("mine", "public.dateplan", ["id"], "status", ["CA"], "", "", [], "row")
        ]
        conn.execute("SET ROLE pg_monitor")
        assert read_watched(conn) == [], "without the right"
        conn.execute("RESET ROLE; GRANT USAGE ON SCHEMA pgherald TO pg_monitor; SET ROLE pg_monitor")
        assert read_watched(conn) == [], "without the right to the table"


def test_only_one_rule_is_taken() -> None:
    rules = [WatchedRule(f"r{value}", f"public.{table}", ("id",), "status", (value,), "", "", (), "row") for table, value in ("aA", "aB", "bA")]  # fmt: skip
    assert choose_watched(rules, "public.a", None) is None
    assert choose_watched(rules, "public.a", "B") == rules[1]
    assert choose_watched(rules, "public.b", None) == rules[2]
    assert choose_watched(rules, "public.b", "C") is None
