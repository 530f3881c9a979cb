"""Languages: the folders of a template that are translations of it, and which of them somebody reads."""

import re
from collections.abc import Collection
from pathlib import Path

from listener.errors import RuleBroken

_TAG = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")
# Of a value to look at: BCP 47 tags in use are far shorter, and a row's may be a megabyte.
_LONGEST = 35
PARTS = ("subject.txt.j2", "body.txt.j2", "body.html.j2")


def choose(there: Collection[str], wanted: object) -> str:
    """The translation for a reader of `wanted` (BCP 47), by RFC 4647 3.4: ``de-AT``, else ``de``; else ``""``, the default.

    `wanted` comes from a row: it is compared with what is there, and nothing else is done with it.
    """
    if not isinstance(wanted, str):
        return ""
    tag = wanted[:_LONGEST].strip().lower().replace("_", "-")
    while tag and tag not in there:
        tag = tag.rpartition("-")[0]
    return tag


def wider(tag: str) -> list[str]:
    """The tag and those it narrows: ``de-at``, ``de``."""
    parts = tag.split("-")
    return ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]


def translations(folder: Path) -> set[str]:
    """The languages that a template's folder has subfolders for.

    Raises:
        RuleBroken: one is not named as languages are here.
    """
    if not folder.is_dir():
        return set()
    found = {sub.name for sub in folder.iterdir() if sub.is_dir() and any((sub / part).exists() for part in PARTS)}
    for name in found:
        if not _TAG.fullmatch(name):
            raise RuleBroken(f"{folder / name} is no language; name it in small letters, as de or pt-br")
    return found
