"""docs/recipes.md: each recipe's tables, rule and changes do as the page says."""

import asyncio
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from listener.config.rules import Rule
from listener.db.connection import connect
from listener.db.install import install_steps, run
from listener.db.pools import lookup_pool, opened
from listener.outbox.event import Event
from listener.worker.decision import ToSend
from listener.worker.lookup import Lookup
from tests.support.database import Database, Databases, install_triggers

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
INTRODUCTION, *SECTIONS = PAGE.split("\n## ")
BLOCK = re.compile(r"^```(sql|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = {section.splitlines()[0]: BLOCK.findall(section) for section in SECTIONS if BLOCK.search(section)}
CHANGE = re.compile(r"^(.*;) +-- (one|no) email$")


def just_installed(url: str) -> None:
    with connect(url) as conn:
        install_triggers(conn)


@pytest.fixture
def shop(databases: Databases) -> Iterator[Database]:
    with databases.fresh(databases.template("recipes", just_installed)) as database:
        yield database


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_does_as_it_says(title: str, shop: Database) -> None:
    (_, tables), (kind, rules), (_, changes) = RECIPES[title]
    assert kind == "toml"
    [(_, readers)] = BLOCK.findall(INTRODUCTION)
    shop.execute(readers)
    shop.execute(tables)
    [(name, section)] = tomllib.loads(rules)["rules"].items()
    rule = Rule(**section)
    with connect(shop.url) as conn:
        for step in install_steps({name: rule}):
            if step.title.endswith(f"rule {name})") or step.title == f"rule {name}":
                run(conn, step, pytest.fail)
    seen = 0
    for line in changes.splitlines():
        found = CHANGE.match(line)
        assert found, f"no number of emails behind {line}"
        shop.execute(found[1])  # type: ignore[call-overload]
        events = shop.events()[seen:]
        seen += len(events)
        sent = asyncio.run(recipients(shop, name, rule, [event["key"] for event in events]))
        assert sent == ["jane@example.org"] * (found[2] == "one"), line


async def recipients(database: Database, name: str, rule: Rule, keys: list[str]) -> list[str]:
    lookup = Lookup(name, rule)
    async with opened(pool := lookup_pool(database.url)):
        await lookup.check(pool)
        found = await lookup.rows(pool, keys)
    events = [Event(0, name, key, 0, 0, database.value("SELECT now()"), 0.0, 0, False, None) for key in keys]
    if rule.each:
        events = [replace(event, person=person) for event in events for person in found.people[event.key]]
    decisions = [lookup.decide(event, found) for event in events]
    return [str(each.recipient) for each in decisions if isinstance(each, ToSend)]


def test_there_are_many_recipes() -> None:
    assert len(RECIPES) >= 12
