"""Make the tables of keys in docs/configuration.md from the definitions of the settings: `make docs`."""

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from listener.address import Mailbox
from listener.config.rules import Rule
from listener.config.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
NONE = "–"
_TABLE = re.compile(r"(?<=<!-- keys of )(\w+)(?:, by `make docs` -->\n)(.*?)(?=\n<!-- end -->)", re.DOTALL)
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))


def filled(page: str) -> str:
    """Return the page with each table between its marks replaced."""
    return _TABLE.sub(lambda found: f"{found[1]}, by `make docs` -->\n" + "\n".join(_table(found[1])), page)


def _table(section: str) -> Iterator[str]:
    model: Any = Rule if section == "rules" else Settings.model_fields[section].annotation
    variable = "" if section == "rules" else " environment |"
    yield f"| key | default |{variable} is |"
    yield f"|---|---|{'---|' if variable else ''}---|"
    described = descriptions(model)
    for name, field in model.model_fields.items():
        key = field.alias or name
        place = f" `PGHERALD_{section}_{key}`".upper() + " |" if variable else ""
        yield f"| `{key}` | {_default(model, key, field)} |{place} {described[name]} |"


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field. Pydantic would read them too, but at every start of a command."""
    [definition] = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(description))):
                found[name] = " ".join(description.split())
    return found


def _default(model: type[BaseModel], key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "`off`" if _takes(model, key, "off") else NONE
    if isinstance(value, float) and _takes(model, key, "1d"):
        value = next(f"{value / unit:g}{name}" for name, unit in _UNITS if value >= unit and value % unit == 0)
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, Mailbox):
        value = f"{value.name} <{value.address}>"
    elif isinstance(value, tuple | dict):
        value = ", ".join(map(str, value))
    return f"`{value}`" if str(value) else NONE


def _takes(model: type[BaseModel], key: str, text: str) -> bool:
    try:
        model.model_validate({key: text})
    except ValidationError:
        return False
    return text != "off" or getattr(model.model_validate({key: text}), key, text) is None


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
