"""CHANGE_ME, which `pgherald init` writes where it could not decide. No command accepts a file that still has it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from listener.errors import ConfigError

CHANGE_ME = "CHANGE_ME"
_WORD = re.compile(rf"\b{CHANGE_ME}\b")
# The remarks of `init` above a line of SQL may stay.
_COMMENT = re.compile(r"--[^\n]*")


def refuse_placeholders(values: Mapping[str, Any], file: Path) -> None:
    """Check that nothing in the rules of a file is left to be decided. `values` is the file's content.

    Raises:
        ConfigError: CHANGE_ME stands there. The message is one line, and names every place.
    """
    rules = values.get("rules")
    if not isinstance(rules, dict):
        return
    places = [
        f"[rules.{name}] {', '.join(keys)}"
        for name, rule in rules.items()
        if isinstance(rule, dict) and (keys := [key for key, value in rule.items() if _has_placeholder(value)])
    ]
    if places:
        raise ConfigError(
            f"{file}: {'; '.join(places)}: {CHANGE_ME} marks what `pgherald init` could not decide; "
            "replace it as the comment there says"
        )


def _has_placeholder(value: object) -> bool:
    return any(_WORD.search(_COMMENT.sub("", text)) for text in _texts(value))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
