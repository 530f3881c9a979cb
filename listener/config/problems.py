"""The errors of a configuration, in words: the place, what is wrong, and what to write instead."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from listener.config.rules import Rule

# By key: what to say of a value that does not match the key's pattern.
_PATTERNS = {
    "ses_topic": "is not the ARN of an SNS topic; write arn:aws:sns:eu-west-1:123456789012:bounces",
    "table": 'is not a table with its schema; write public.dateplan, or with quotes as in SQL: public."Date Plan"',
    "template": "is not the name of a folder; write letters, digits, - and _",
}
# By key: what to write where text in quotes is expected.
_TEXTS = {"becomes": 'write a value in quotes, such as "true", or a list of values'}
_RULE_NAME = "a rule's name may have small letters, digits and underscores, at most 40, and starts with a letter"
# The names of TOML's types. An error names the type and not the value, which may be a password.
_TYPES = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a section"}


def explained(error: Any, values: Mapping[str, Any], file: Path | None, settings: type[BaseModel]) -> str:
    """Return one of pydantic's errors as ``<place>: <what is wrong>; <what to do>``.

    `values` are those of the file. A place that is not among them came from the environment.
    """
    path = [str(part) for part in error["loc"]]
    # Each rule and each header is a key of a section below its section.
    depth = 3 if path[0] == "rules" else 2
    depth += path[depth - 1 : depth] == ["headers"]
    *section, key = path[:depth]
    place = f"[{'.'.join(section)}] {key}" if section else f"[{key}]"
    # A rule that lacks a key is in the file, although the key is not.
    in_file = _is_in(values, error["loc"]) or (path[0] in values and (error["type"] == "missing" or path[0] == "rules"))
    source = str(file) if in_file else f"environment, PGHERALD_{'_'.join(path[:2]).upper()}"
    if error["type"] == "extra_forbidden":
        meant = _closest(key, _known(path, settings))
        return f"{source}: {place}: unknown key" + (f"; did you mean {meant!r}?" if meant else "")
    if path[2:] == ["[key]"]:
        return f"{source}: [rules.{path[1]}]: {_RULE_NAME}"
    return f"{source}: {place}: {_problem(error, key, '.'.join(path))}"


def _problem(error: Any, key: str, name: str) -> str:
    """Return what is wrong with a value, and what to write. `name` is the key with its sections."""
    limits, got = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "missing":
            return "is required"
        case "string_pattern_mismatch":
            return _PATTERNS[key]
        case "string_type":
            return f"must be text in quotes, got {_TYPES.get(type(got), 'another type')}" + (
                f"; {_TEXTS[key]}" if key in _TEXTS else ""
            )
        case "int_type" | "int_parsing" | "float_type" | "float_parsing" | "finite_number":
            return f"must be a number, got {_shown(got)}"
        case "int_from_float":
            return f"must be a whole number, got {got}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:g}, got {got}"
        case "less_than_equal":
            return f"must be at most {limits['le']:g}, got {got}"
        case "literal_error":
            return f"must be {limits['expected']}, got {_shown(got)}"
        case "tuple_type":
            return f'must be a list, got {_TYPES.get(type(got), "another type")}; write ["a", "b"]'
        case "model_type" | "model_attributes_type" | "dict_type":
            return (
                f"must be a section, got {_TYPES.get(type(got), 'another type')}; write [{name}] on a line of its own"
            )
        case "too_short":
            return "must not be empty"
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


def _shown(value: object) -> str:
    """Return a number or a truth value as TOML writes it, or the name of another value's type.

    Text is never repeated: it may be a secret that was set under the wrong name.
    """
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else _TYPES.get(type(value), "another type")


def _closest(key: str, known: list[str]) -> str | None:
    """Return the known key that looks most like this one, or that holds its last word."""
    if close := difflib.get_close_matches(key, known, n=1):
        return close[0]
    word = key.rpartition("_")[2]
    return next((name for name in known if len(word) > 3 and word in name), None)


def _is_in(node: Any, place: tuple[int | str, ...]) -> bool:
    """Return whether the file has this place, down to the element of a list.

    pydantic calls the place of a name that is itself invalid ``[key]``.
    """
    for part in place:
        if part == "[key]":
            return True
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True


def _known(path: list[str], settings: type[BaseModel]) -> list[str]:
    """Return the names that are valid at this place: sections, or the keys of one."""
    if len(path) == 1:
        return list(settings.model_fields)
    model: Any = Rule if path[0] == "rules" else settings.model_fields[path[0]].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
