"""A fault in the configuration, in words: where it stands, what is wrong, and what was probably meant."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from listener.config.rules import Rule

# What a value that does not fit its pattern ought to have been.
_PATTERNS = {
    "ehlo_name": "write a host's name, or an address in brackets: mail.example.org, [192.0.2.1]",
    "idempotency_header": "write a header's name, such as X-Pgherald-Key",
    "feedback_id": "write visible ASCII without blanks, 200 characters at most",
    "table": 'write a name as SQL does, schema first: public.dateplan, public."Date Plan"',
    "template": "write the name of a folder, of letters, digits, - and _",
}


def explained(error: Any, values: Mapping[str, Any], file: Path | None, settings: type[BaseModel]) -> str:
    """One of pydantic's errors; `values` are those of the file, the rest came from the environment."""
    path = [str(part) for part in error["loc"]]
    *section, key = path[:3] if path[0] == "rules" else path[:2]
    place = f"[{'.'.join(section)}] {key}" if section else f"[{key}]"
    in_file = _stands(values, error["loc"]) or (error["type"] == "missing" and path[0] in values)
    source = str(file) if in_file else f"environment, PGHERALD_{'_'.join(path[:2]).upper()}"
    if error["type"] == "extra_forbidden":
        meant = _closest(key, _known(path, settings))
        return f"{source}: {place}: unknown key" + (f"; did you mean {meant!r}?" if meant else "")
    if error["type"] == "missing":
        return f"{source}: {place}: is missing"
    if path[2:] == ["[key]"]:
        return f"{source}: [rules.{path[1]}]: a rule's name is small letters, digits and underscores, 40 at most"
    if error["type"] == "string_pattern_mismatch":
        return f"{source}: {place}: {_PATTERNS[key]}"
    return f"{source}: {place}: {error['msg'].removeprefix('Value error, ')}"


def _closest(key: str, known: list[str]) -> str | None:
    """Return the known key that looks most like this one, or that holds its last word."""
    if close := difflib.get_close_matches(key, known, n=1):
        return close[0]
    word = key.rpartition("_")[2]
    return next((name for name in known if len(word) > 3 and word in name), None)


def _stands(node: Any, place: tuple[int | str, ...]) -> bool:
    """Whether the file has this place, down to the element of a list. A name that is itself wrong is called ``[key]``."""
    for part in place:
        if part == "[key]":
            return True
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True


def _known(path: list[str], settings: type[BaseModel]) -> list[str]:
    if len(path) == 1:
        return list(settings.model_fields)
    model: Any = Rule if path[0] == "rules" else settings.model_fields[path[0]].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
