"""docs/configuration.md names every key, with the default and the variable that it really has."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from listener.config.rules import Rule
from listener.config.settings import Settings
from tools.key_tables import descriptions, filled

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SECTIONS = {name: field.annotation for name, field in Settings.model_fields.items() if name != "rules"}
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (?:`(PGHERALD_\w+)` \| )?", re.MULTILINE)


def rows(section: str) -> dict[str, tuple[str, str | None]]:
    """The default and the variable of each key in the first table below the heading."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## [{section}]\n")
    table = rest[rest.index("|") :].partition("\n\n")[0]
    return {key: (default.strip("`"), variable or None) for key, default, variable in ROW.findall(table)}


def keys(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section(section: str) -> None:
    model: Any = SECTIONS[section]
    documented = rows(section)
    assert documented.keys() == keys(model).keys()
    assert {key: variable for key, (_, variable) in documented.items()} == {
        key: f"PGHERALD_{section}_{key}".upper() for key in documented
    }
    said = {key: default for key, (default, _) in documented.items() if default != "–"}
    assert model.model_validate(said) == model.model_validate({})
    # A key without a documented default has no default.
    unset = [getattr(model.model_validate({}), keys(model)[key]) for key in documented.keys() - said.keys()]
    assert not any(unset)


def test_the_rules() -> None:
    documented = rows("rules.NAME")
    assert documented.keys() == keys(Rule).keys()
    for key, (default, _) in documented.items():
        field = Rule.model_fields[keys(Rule)[key]]
        assert (default == "required") == field.is_required()
        if default == "–":
            assert not field.default
        elif default != "required":
            assert field.default is not PydanticUndefined
            assert field.default in (default, (default,)) or str(field.default) == default


def test_the_tables_are_those_that_make_docs_makes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- keys of ") == len(Settings.model_fields)
    assert filled(page) == page


def test_every_key_is_described() -> None:
    for model in (*SECTIONS.values(), Rule):
        assert list(descriptions(model)) == list(model.model_fields)  # type: ignore[union-attr,arg-type]
        assert all(descriptions(model).values())  # type: ignore[arg-type]
