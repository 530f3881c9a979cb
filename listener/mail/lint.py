"""What is amiss with a finished message: what cuts it short, hides it, or makes a mail program show it badly."""

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from urllib.parse import SplitResult, urlsplit

from listener.mail.composer import Message
from listener.resources import resource

# Gmail cuts what is longer, and the way to unsubscribe with it.
MAX_HTML = 100_000
_MAX_LINE = 998
_MAX_BODY_LINE = 76
_MAX_SUBJECT = 78

_ELEMENTS = {"button": "html-button-submit", "input": "html-input-text", "map": "html-image-maps"}
_ATTRIBUTES = {"background", "popover", "srcset"}
_IMAGES = {".avif": "image-avif", ".svg": "image-svg", ".webp": "image-webp"}
_VALUES = {
    r"(?:inline-)?flex": "css-display-flex",
    r"(?:inline-)?grid": "css-display-grid",
    r".*\burl\(": "css-background-image",
    r".*-gradient\(": "css-linear-gradient",
    r".*\bvar\(": "css-variables",
    r".*\bcalc\(": "css-unit-calc",
    r".*\bclamp\(": "css-function-clamp",
    r".*\bmax\(": "css-function-max",
    r".*\bmin\(": "css-function-min",
    r".*\d(?:vw)\b": "css-unit-vw",
    r".*\d(?:vh)\b": "css-unit-vh",
}
_SHEETS = {
    r"@import\b": "css-at-import",
    r":checked\b": "css-pseudo-class-checked",
    r":before\b": "css-pseudo-element-before",
    r":after\b": "css-pseudo-element-after",
}
_HARMLESS = {("position", "static"), ("float", "none"), ("opacity", "1"), ("visibility", "visible")}
_DECLARATION = re.compile(r"([a-z-]+)\s*:\s*([^;{}]+)")
# What is in a query adds to the page for those who can; nothing rests on it.
_QUERY = re.compile(r"@(?:media|supports)[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def lint(message: Message) -> list[str]:
    """One remark a fault, in words; none where the message is as it should be."""
    content = message.content
    remarks = []
    if not content.subject:
        remarks.append("the subject is empty")
    elif len(content.subject) > _MAX_SUBJECT:
        remarks.append(f"the subject has {len(content.subject)} characters; lists of mails show half of that")
    if not content.text.strip():
        remarks.append("the text part is empty")
    head, _, body = message.octets.partition(b"\r\n\r\n")
    for part, lines, most in (("header", head, _MAX_LINE), ("body", body, _MAX_BODY_LINE)):
        if (longest := max(map(len, lines.split(b"\r\n")))) > most:
            remarks.append(f"a line of the {part} has {longest} octets; {most} is the most")
    return remarks + ([] if content.html is None else list(_page(content.html, content.text)))


def _page(html: str, text: str) -> Iterator[str]:
    if (size := len(html.encode("utf-8", "replace"))) > MAX_HTML:
        yield f"the HTML has {size} octets; Gmail cuts it at {MAX_HTML}"
    page = _Page(html)
    if not page.language:
        yield "<html> has no lang: screen readers guess how to pronounce it"
    if not page.charset:
        yield '<meta charset="utf-8"> is missing'
    if page.tables:
        yield f'{page.tables} of the tables lack role="presentation": screen readers read them out as data'
    if page.mute:
        yield f'{page.mute} of the images lack alt; write alt="" where there is nothing to say'
    for link in page.links:
        if _split(link).scheme not in ("https", "http", "mailto", "tel"):
            yield f"the link {_short(link)} is no full address"
        elif link.startswith("http") and link not in text:
            yield f"the text part lacks the link {_short(link)}"
    for feature in sorted(page.features & _lacking().keys()):
        name = feature.partition("-")[2].replace("-", " ")
        yield f"{name}: {', '.join(_lacking()[feature])} cannot show it (caniemail.com/features/{feature})"


class _Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.language = self.charset = False
        self.tables = self.mute = 0
        self.links: dict[str, None] = {}
        self.features: set[str] = set()
        self._sheet = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.features.add(_ELEMENTS.get(tag, f"html-{tag}"))
        self.features.update(f"html-{name}" for name in given if name in _ATTRIBUTES)
        self.language |= tag == "html" and bool(given.get("lang"))
        self.charset |= tag == "meta" and given.get("charset", "").lower() == "utf-8"
        self.tables += tag == "table" and given.get("role") != "presentation"
        self._sheet = tag == "style"
        self._look(given.get("style", ""))
        if tag in ("a", "area") and "href" in given:
            self.links[given["href"]] = None
        if tag == "img":
            self.mute += "alt" not in given
            source = given.get("src", "").lower()
            self.features.add("image-base64" if source.startswith("data:") else _IMAGES.get(_suffix(source), ""))

    def handle_data(self, data: str) -> None:
        if self._sheet:
            sheet = _QUERY.sub("", _COMMENT.sub("", data))
            self.features.update(feature for pattern, feature in _SHEETS.items() if re.search(pattern, sheet))
            for block in re.findall(r"\{([^{}]*)\}", sheet):
                self._look(block)

    def handle_endtag(self, tag: str) -> None:
        self._sheet = False

    def _look(self, style: str) -> None:
        for name, value in _DECLARATION.findall(style.lower()):
            value = value.replace("!important", "").strip()
            if (name, value) in _HARMLESS:
                continue
            sides = name in ("left", "right", "top", "bottom")
            self.features.add("css-left-right-top-bottom" if sides else f"css-{name}")
            self.features.update(feature for pattern, feature in _VALUES.items() if re.match(pattern, value))


def _suffix(address: str) -> str:
    return "." + _split(address).path.rpartition(".")[2]


def _split(address: str) -> SplitResult:
    """Empty where it is no address at all, such as ``https://[x``: a row may have put that there."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _short(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:79] + "…")


@cache
def _lacking() -> dict[str, list[str]]:
    """By feature, the mail programs that lack it; see tools/caniemail.py."""
    found: dict[str, list[str]] = json.loads(resource("mail/clients.json").read_text(encoding="utf-8"))["lacking"]
    return found
