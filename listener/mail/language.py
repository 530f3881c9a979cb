"""Languages: the translations of a template, and the selection of one for a reader.

A translation is a subfolder of the template's folder, named by its language tag (BCP 47) in small letters.
"""

import re
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from unicodedata import bidirectional

from babel import Locale, UnknownLocaleError

from listener.errors import RuleBroken

_TAG = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")
# RFC 5646 4.4.1: a buffer of 35 characters holds every tag that is likely. The value of a row may be a megabyte.
_MAX_TAG_CHARS = 35
# Written from right to left: languages that Babel has no locale of, and scripts.
_RTL_LANGUAGES = frozenset(["arc", "glk", "pnb"])
_RTL_SCRIPTS = frozenset(["adlm", "arab", "aran", "hebr", "mand", "nkoo", "rohg", "samr", "syrc", "thaa"])
# Two tags for one language: the old one and that of today (IANA language subtag registry), and Norwegian.
_SAME_LANGUAGES = {"iw": "he", "in": "id", "ji": "yi", "tl": "fil", "no": "nb"}
_SAME_LANGUAGES |= {other: tag for tag, other in _SAME_LANGUAGES.items()}
# The script of a region that differs from the usual one of its language (CLDR, likely subtags).
_SCRIPTS = {"zh-tw": "zh-hant", "zh-hk": "zh-hant", "zh-mo": "zh-hant"}
PARTS = ("subject.txt.j2", "body.txt.j2", "body.html.j2", "event.ics.j2")
"""The files of a template, in the order subject, text, HTML and calendar entry."""


def tag_of(wanted: object) -> str:
    """Return the language tag of a row's value in small letters, and ``""`` if it has none.

    Parts at the end that do not belong to a tag are left out: ``de_AT`` is ``de-at``, and ``de_AT.UTF-8`` is ``de``.
    """
    if not isinstance(wanted, str):
        return ""
    tag = wanted[:_MAX_TAG_CHARS].strip().lower().replace("_", "-")
    while tag and not _TAG.fullmatch(tag):
        tag = tag.rpartition("-")[0]
    return tag


@lru_cache(maxsize=256)
def locale_of(tag: str) -> Locale | None:
    """Return the locale of a language tag, or of the part of it that is known. None: no part is."""
    while tag:
        try:
            return Locale.parse(tag, sep="-")
        except (UnknownLocaleError, ValueError):
            tag = tag.rpartition("-")[0]
    return None


def direction(language: object) -> str:
    """Return ``rtl`` for a language that is written from right to left, and ``ltr`` for any other."""
    first, *rest = tag_of(str(language)).split("-")
    scripts = [part for part in rest if len(part) == 4 and part.isalpha()]
    if scripts:
        return "rtl" if scripts[0] in _RTL_SCRIPTS else "ltr"
    locale = locale_of("-".join([first, *rest]))
    is_rtl = first in _RTL_LANGUAGES if locale is None else locale.character_order == "right-to-left"
    return "rtl" if is_rtl else "ltr"


def direction_of_words(text: str) -> str:
    """Return the direction in which most letters of a text are written, ``rtl`` or ``ltr``."""
    letters = Counter(map(bidirectional, text))
    return "rtl" if letters["R"] + letters["AL"] > letters["L"] else "ltr"


def choose(available: Collection[str], wanted: object) -> str:
    """Return the translation for a reader of the language `wanted`, or ``""`` for the default (RFC 4647 3.4).

    A reader of ``de-AT`` gets ``de-at`` if it is available, then ``de``. `wanted` comes from a row. It is only compared
    with `available`, so that it cannot name a file.
    """
    for tag in wider(tag_of(wanted)):
        language, hyphen, rest = tag.partition("-")
        for each in (tag, f"{_SAME_LANGUAGES.get(language, language)}{hyphen}{rest}", _SCRIPTS.get(tag, tag)):
            if each in available:
                return each
    return ""


def wider(tag: str) -> list[str]:
    """Return the tag and the wider ones, the narrowest first: ``de-at``, ``de``."""
    parts = tag.split("-")
    return ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]


def translations(folder: Path) -> set[str]:
    """Return the languages for which a template's folder has a subfolder with one of the `PARTS`.

    Raises:
        RuleBroken: Such a subfolder is not named by a language tag.
    """
    if not folder.is_dir():
        return set()
    found = {sub.name for sub in folder.iterdir() if sub.is_dir() and any((sub / part).exists() for part in PARTS)}
    for name in found:
        if not _TAG.fullmatch(name):
            raise RuleBroken(f"{folder / name} is not named by a language; name it in small letters, as de or pt-br")
    return found
