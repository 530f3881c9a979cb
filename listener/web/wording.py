"""The words of the page to unsubscribe, in the languages of ``wording.json``."""

import json
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from listener.mail.language import choose


@dataclass(frozen=True, slots=True)
class Wording:
    """The words in one language. An attribute named ``…_text`` is the sentence below the heading before it."""

    language: str
    unsubscribe: str
    question: str
    done: str
    done_text: str
    later: str
    later_text: str
    incomplete: str
    incomplete_text: str


_BY_LANGUAGE = {
    language: Wording(language, **words)
    for language, words in json.loads((Path(__file__).parent / "wording.json").read_bytes()).items()
}


def wording(request: web.Request, language: str = "") -> Wording:
    """Return the words in the reader's `language`, else in the first of Accept-Language that exists, else in English."""
    for tag in (language, *_accepted(request.headers.get("Accept-Language", ""))):
        if found := choose(_BY_LANGUAGE, tag):
            return _BY_LANGUAGE[found]
    return _BY_LANGUAGE["en"]


def _accepted(header: str) -> list[str]:
    """Return the languages of an Accept-Language header, the preferred first (RFC 9110 12.5.4)."""
    weighted = []
    for item in header.split(","):
        tag, _, weight = item.partition(";")
        try:
            quality = float(weight.strip().lower().removeprefix("q=") or 1)
        except ValueError:
            continue
        if quality > 0:
            weighted.append((quality, tag.strip()))
    return [tag for _, tag in sorted(weighted, key=lambda each: -each[0])]
