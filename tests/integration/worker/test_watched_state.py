"""The state is asked of the rule's table, in the statement of the lookup."""

from typing import Any, LiteralString

import pytest

from listener.config.rules import Rule
from listener.db.pools import lookup_pool, opened
from listener.errors import RuleBroken
from listener.worker.lookup import Lookup
from listener.worker.lookup_result import LookupResult
from tests.support.database import Database

WHEN = "new.status IN ('shipped', 'delivered') AND new.total >= 100"
LOOKUP = """SELECT {key} AS key, 'a@example.org' AS email, true AS consent, id AS c0, 'x%%y' AS note FROM app.orders
             WHERE {key} = ANY (%(keys)s::text[])"""
TABLE = """
    CREATE TABLE app.orders (id int, part text, status text, total numeric, c0 text DEFAULT 'hides', PRIMARY KEY (id, part));
    INSERT INTO app.orders VALUES (1, 'a', 'shipped', 100), (2, 'a', 'shipped', 99), (3, 'a', NULL, NULL), (4, 'b', 'packed', 500);
"""


def rule(**changes: Any) -> Rule:
    lookup = LOOKUP.format(key="id::text")
    return Rule.model_validate({"table": "app.orders", "when": WHEN, "lookup": lookup, "template": "x", **changes})


async def ask(database: Database, rule: Rule, keys: list[str], **settings: Any) -> LookupResult:
    async with opened(pool := lookup_pool(database.url)):
        return await Lookup("orders", rule, **settings).rows(pool, keys)


@pytest.mark.parametrize("as_owner", [False, True])
@pytest.mark.parametrize("capture", ["row", "statement"])
async def test_a_condition_is_asked_of_the_row_as_it_is_now(sandbox: Database, capture: str, as_owner: bool) -> None:
    sandbox.execute(TABLE)
    sandbox.execute(
        'SELECT pgherald.watch(%s, %s, \'{id,part}\', "when" => %s, "from" => %s, capture => %s)',
        ("orders", "app.orders", WHEN, "old.status = 'packed'", capture),
    )
    key = "ARRAY[id::text, part]"
    composite = rule(key=["id", "part"], lookup=LOOKUP.format(key=key + "::text"))
    keys = ["{1,a}", "{2,a}", "{3,a}", "{4,b}"]
    found = await ask(sandbox, composite, keys, as_owner=as_owner)
    assert sorted(found.reverted) == ["{2,a}", "{3,a}", "{4,b}"]
    assert not found.gone
    sandbox.execute("UPDATE app.orders SET status = 'delivered', total = 100 WHERE id = 4")
    assert sorted((await ask(sandbox, composite, keys)).reverted) == ["{2,a}", "{3,a}"]


CHANGES: dict[str, LiteralString] = {
    "renamed": "ALTER TABLE app.orders RENAME status TO state",
    "enum": "ALTER TYPE app.kind RENAME VALUE 'shipped' TO 'sent'",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_renamed_column_or_value_keeps_its_meaning(sandbox: Database, change: str) -> None:
    """The triggers have the condition, and the server shows it with the present names."""
    sandbox.execute("CREATE TYPE app.kind AS ENUM ('packed', 'shipped', 'delivered')")
    sandbox.execute(TABLE.replace("status text", "status app.kind"))
    sandbox.execute(
        """SELECT pgherald.watch('orders', 'app.orders', '{id,part}', "when" => 'new.status = ''shipped''')"""
    )
    single = rule(key=["id"], when="new.status = 'shipped'")
    async with opened(pool := lookup_pool(sandbox.url)):
        lookup = Lookup("orders", single)
        for _ in range(8):
            assert sorted((await lookup.rows(pool, ["1", "4"])).reverted) == ["4"]
        sandbox.execute(CHANGES[change])
        assert sorted((await lookup.rows(pool, ["1", "4"])).reverted) == ["4"]
        assert sorted((await Lookup("orders", single).rows(pool, ["1", "4"])).reverted) == ["4"]


async def test_several_values(sandbox: Database) -> None:
    sandbox.execute(TABLE)
    several = rule(when="", becomes=["shipped", "it's 100%"], key=["id"])
    sandbox.execute("UPDATE app.orders SET status = 'it''s 100%' WHERE id = 2")
    assert (await ask(sandbox, several, ["1", "2", "3", "4"])).reverted == {
        "3": "status is now NULL",
        "4": "status is now packed",
    }


async def test_a_row_of_the_lookup_that_the_table_lacks_is_gone(sandbox: Database) -> None:
    sandbox.execute(TABLE)
    invented = rule(
        when="", becomes="shipped", key=["id"],
        lookup="SELECT key, 'a@example.org' AS email, true AS consent FROM unnest(%(keys)s::text[]) AS given (key)",
    )  # fmt: skip
    found = await ask(sandbox, invented, ["1", "9"])
    assert found.gone == {"9"}


async def test_a_path_that_hides_the_servers_operators_is_refused(sandbox: Database) -> None:
    sandbox.execute(TABLE)
    sandbox.execute("""SELECT pgherald.watch('orders', 'app.orders', '{id,part}', "when" => 'new.total > 1')""")
    url = sandbox.url + ("&" if "?" in sandbox.url else "?") + "options=-csearch_path%3Dapp%2Cpg_catalog"
    async with opened(pool := lookup_pool(url)):
        with pytest.raises(RuleBroken, match="names a schema before pg_catalog"):
            await Lookup("orders", rule(when="new.total > 1")).rows(pool, ["1"])
