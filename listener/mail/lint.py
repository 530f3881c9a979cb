"""Finds the faults of a finished message: those that cut it short, hide it, or make a mail program show it badly.

``clients.json`` lists the features of HTML and CSS that common mail programs lack. ``tools/caniemail.py`` writes it.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from urllib.parse import SplitResult, urlsplit

from listener.mail.composer import Message
from listener.resources import resource

# Gmail shows about the first 102 kB of a page. The link to unsubscribe is usually at the end.
MAX_HTML_BYTES = 100_000
# RFC 5322 2.1.1: no line may be longer.
_MAX_HEADER_LINE_BYTES = 998
# RFC 2045 6.7: the longest line of quoted-printable.
_MAX_BODY_LINE_BYTES = 76
# RFC 5322 2.1.1: a line should not be longer, and a list of messages shows about half of it.
_MAX_SUBJECT_CHARS = 78
# The longest excerpt of a link in a remark.
_MAX_EXCERPT_CHARS = 80

# The layouts' own words, which a translation must replace.
_ENGLISH_FOOTER = "You get this mail because e-mail notifications are switched on"

# The tables below map parts of a page to the names of features at caniemail.com.

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
# Declarations that every mail program shows as it should, because they change nothing.
_HARMLESS = {("position", "static"), ("float", "none"), ("opacity", "1"), ("visibility", "visible")}
_DECLARATION = re.compile(r"([a-z-]+)\s*:\s*([^;{}]+)")
# Rules in a query only improve the page for the programs that know it, so the others may ignore them.
_QUERY = re.compile(r"@(?:media|supports)[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def lint(message: Message) -> list[str]:
    """Return one sentence for each fault of the message, or an empty list."""
    content = message.content
    remarks = []
    if not content.subject:
        remarks.append("the subject is empty")
    elif len(content.subject) > _MAX_SUBJECT_CHARS:
        remarks.append(
            f"the subject has {len(content.subject)} characters; a list of messages shows about half of {_MAX_SUBJECT_CHARS}"
        )
    if not content.text.strip():
        remarks.append("the text part is empty")
    head, _, body = message.octets.partition(b"\r\n\r\n")
    for part, lines, limit in (("header", head, _MAX_HEADER_LINE_BYTES), ("body", body, _MAX_BODY_LINE_BYTES)):
        if (longest := max(map(len, lines.split(b"\r\n")))) > limit:
            remarks.append(f"a line of the {part} has {longest} octets; {limit} is the most")
    return remarks + ([] if content.html is None else list(_lint_html(content.html, content.text)))


def _lint_html(html: str, text: str) -> Iterator[str]:
    if (size := len(html.encode("utf-8", "replace"))) > MAX_HTML_BYTES:
        yield f"the HTML has {size} octets; Gmail cuts it at {MAX_HTML_BYTES}"
    page = _HtmlFeatures(html)
    if not page.language:
        yield "<html> has no lang: screen readers guess how to pronounce it"
    elif not page.language.startswith("en") and _ENGLISH_FOOTER in html + text:
        yield f"the footer is English in an email in {page.language}: write the block footer, in the text part too"
    if not page.charset:
        yield '<meta charset="utf-8"> is missing'
    if page.tables:
        yield f'{page.tables} of the tables lack role="presentation": screen readers read them as data'
    if page.images:
        yield f'{page.images} of the images lack alt; write alt="" if the image says nothing'
    for link in page.links:
        if _split(link).scheme not in ("https", "http", "mailto", "tel"):
            yield f"the link {_short(link)} is not a full URL"
        elif link.startswith("http") and link not in text:
            yield f"the link {_short(link)} is missing from the text part"
    for feature in sorted(page.features & _lacking().keys()):
        name = feature.partition("-")[2].replace("-", " ")
        yield f"{name}: {', '.join(_lacking()[feature])} cannot show it (caniemail.com/features/{feature})"


class _HtmlFeatures(HTMLParser):
    """Collects what matters of a page.

    `language` is the page's, or empty; `charset` is True if the page names it. `tables` counts the tables without
    ``role="presentation"``, and `images` the images without alt. `links` are the targets, in their order. `features`
    are the features it uses, by their names at caniemail.com.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.language = ""
        self.charset = False
        self.tables = self.images = 0
        self.links: dict[str, None] = {}
        self.features: set[str] = set()
        self._in_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag uses or lacks (called by the parser)."""
        given = {name: value or "" for name, value in attrs}
        self.features.add(_ELEMENTS.get(tag, f"html-{tag}"))
        self.features.update(f"html-{name}" for name in given if name in _ATTRIBUTES)
        if tag == "html":
            self.language = given.get("lang", "").lower()
        self.charset |= tag == "meta" and given.get("charset", "").lower() == "utf-8"
        self.tables += tag == "table" and given.get("role") != "presentation"
        self._in_style = tag == "style"
        self._add_declarations(given.get("style", ""))
        if tag in ("a", "area") and "href" in given:
            self.links[given["href"]] = None
        if tag == "img":
            self.images += "alt" not in given
            source = given.get("src", "").lower()
            self.features.add("image-base64" if source.startswith("data:") else _IMAGES.get(_suffix(source), ""))

    def handle_data(self, data: str) -> None:
        """Collect what a style sheet uses (called by the parser)."""
        if self._in_style:
            sheet = _QUERY.sub("", _COMMENT.sub("", data))
            self.features.update(feature for pattern, feature in _SHEETS.items() if re.search(pattern, sheet))
            for block in re.findall(r"\{([^{}]*)\}", sheet):
                self._add_declarations(block)

    def handle_endtag(self, tag: str) -> None:
        """Leave a style sheet (called by the parser)."""
        self._in_style = False

    def _add_declarations(self, style: str) -> None:
        for name, value in _DECLARATION.findall(style.lower()):
            value = value.replace("!important", "").strip()
            if (name, value) in _HARMLESS:
                continue
            sides = name in ("left", "right", "top", "bottom")
            self.features.add("css-left-right-top-bottom" if sides else f"css-{name}")
            self.features.update(feature for pattern, feature in _VALUES.items() if re.match(pattern, value))


def _suffix(url: str) -> str:
    return "." + _split(url).path.rpartition(".")[2]


def _split(url: str) -> SplitResult:
    """Return the parts of a URL, all empty if it is invalid. A row may contain anything, such as ``https://[x``."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _short(text: str) -> str:
    return ascii(text if len(text) <= _MAX_EXCERPT_CHARS else text[: _MAX_EXCERPT_CHARS - 1] + "…")


@cache
def _lacking() -> dict[str, list[str]]:
    """Return the mail programs that lack a feature, by feature."""
    found: dict[str, list[str]] = json.loads(resource("mail/clients.json").read_text(encoding="utf-8"))["lacking"]
    return found
