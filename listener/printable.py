"""Text from rows, servers and other roles, made safe for a terminal, a log and JSON.

A control character can drive the terminal. A bidirectional or zero-width character makes a line read as something else.
Each is shown as U+FFFD, so that the reader sees that something was there. These characters are replaced:

- control characters: C0, DEL and C1
- lone surrogates
- line and paragraph separators
- bidirectional marks, embeddings, overrides and isolates
- zero-width and other invisible format characters
- tag characters (U+E0000), although the flags of regions are spelled with them

Two kinds stay. Variation selectors only choose a glyph. A joiner (U+200C, U+200D) stays between two characters of scripts
that need it, and between emoji. It hides nothing there, and without it the emoji of a family becomes four.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

_INVISIBLE = (
    "\x7f-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
# The scripts from Hebrew to Mongolian, arrows and symbols, variation selector 16, and every plane after the first.
_JOINED = "[\u0590-\u1fff\u2190-\u2bff\ufe0f\U00010000-\U000dffff]"
_JOINERS = f"(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})"
_IN_A_LINE = re.compile(f"[\x00-\x1f{_INVISIBLE}]|{_JOINERS}")
# Every invisible character except line feeds and tabs.
HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f{_INVISIBLE}]|{_JOINERS}")
# Those of them that are no controls. In an email they can only hide text or turn it round.
_FORMATS = re.compile(
    "[\xad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    f"\U0001d173-\U0001d17a\U000e0000-\U000e007f]|{_JOINERS}"
)
# A line of a table or of the log. Longer values of rows and servers would hide the rest of it.
_MAX_EXCERPT_CHARS = 160
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(value: object) -> str:
    """Return the value as one line, with every invisible character shown as U+FFFD."""
    return _IN_A_LINE.sub(_REPLACEMENT, str(value))


def printable_lines(text: str) -> str:
    """Return text of several lines, such as a message's body, like `printable`. Line feeds and tabs stay."""
    return HIDDEN.sub(_REPLACEMENT, text.replace("\r\n", "\n"))


def without_invisible(text: str) -> str:
    """Return text for an email without bidirectional controls and zero-width characters. Other controls stay."""
    return text if text.isascii() else _FORMATS.sub("", text)


def escaped(text: str) -> str:
    r"""Return JSON with each invisible character as an escape such as ``\u202e``. Programs read the same value.

    The text must be JSON already. There, such characters can only be inside strings.
    """
    # Most lines of a log are plain, and this test is cheaper than the pattern.
    plain = text.isascii() and text.isprintable()
    return text if plain else HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def as_json(value: Any, **options: Any) -> str:
    """Return the value as JSON, with letters of every script unescaped. `options` go to `json.dumps`."""
    return escaped(json.dumps(value, ensure_ascii=False, **options))


def excerpt(value: object) -> str:
    """Return text from a row or a server as one line, like `printable`, cut at 160 characters."""
    text = printable(value)
    return text if len(text) <= _MAX_EXCERPT_CHARS else f"{text[:_MAX_EXCERPT_CHARS]}…"


def utc(moment: datetime) -> str:
    """Return a time for people, in UTC and labelled so: ``2026-11-22 17:44:10 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def utc_clock(moment: datetime, now: datetime) -> str:
    """Return a time in UTC, without the label, and without the date if it is that of `now`."""
    moment = moment.astimezone(UTC)
    return f"{moment:%H:%M:%S}" if moment.date() == now.astimezone(UTC).date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float | None) -> str:
    """Return a duration for people: ``12 ms``, ``3.4 s``, ``5 min``. None is shown as a dash."""
    if seconds is None:
        return "–"
    for limit, unit, size in ((1.0, "ms", 0.001), (120.0, "s", 1.0), (7200.0, "min", 60.0), (172800.0, "h", 3600.0)):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
