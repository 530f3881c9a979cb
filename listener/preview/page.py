"""The page of `pgherald preview`: a message as its readers and a server see it, side by side."""

import email
import email.policy
import re
from collections.abc import Mapping
from email.message import EmailMessage, MIMEPart
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from listener.mail.composer import Message
from listener.mail.lint import lint
from listener.mail.message import Content
from listener.resources import resource

_DARK_QUERY = re.compile(r"\(\s*prefers-color-scheme\s*:\s*dark\s*\)")
_COLOR_SCHEMES = re.compile(r"(color-scheme\s*:\s*)light dark")
# Media queries that every browser, or no browser, matches.
_ALWAYS, _NEVER = "(min-width: 0)", "(max-width: 0)"
# The layout's own width, with a margin, and the width of a common phone.
_WIDTHS_PX = {"Desktop": 660, "Phone": 360}


def headers(message: Message) -> list[tuple[str, str]]:
    """Return the headers that the reader of the message sees, as a mail program reads them."""
    parsed = _parsed(message)
    return [(name, str(parsed[name])) for name in ("From", "Reply-To", "To", "Subject") if name in parsed]


def read(message: Message) -> Content:
    """Return the message as a mail program reads it. It contains no control characters and is safe for a terminal."""
    parsed = _parsed(message)
    text, html = (parsed.get_body((subtype,)) for subtype in ("plain", "html"))
    calendar = next((part for part in parsed.walk() if part.get_content_type() == "text/calendar"), None)
    return Content(str(parsed["Subject"]), _content(text) or "", _content(html), _content(calendar))


def page(rule: str, key: str, messages: Mapping[str, Message]) -> str:
    """Return an HTML page with these messages, each under the name by which it is in `messages`.

    The page loads nothing and runs no script. Each message is in a sandboxed frame.
    """
    environment = Environment(
        loader=FileSystemLoader(resource("templates")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [_context(name, message) for name, message in messages.items()]
    return environment.get_template("_preview.html.j2").render(rule=rule, key=key, messages=shown)


def _context(name: str, message: Message) -> dict[str, object]:
    content = read(message)
    return {
        "name": name,
        "content": content,
        "remarks": [*message.remarks, *lint(message)],
        "headers": [
            (name, value) for name, value in _parsed(message).items() if not name.lower().startswith("content-")
        ],
        "pages": [
            (f"{device}, {'dark' if dark else 'light'}", width, _in_color_scheme(content.html, dark=dark))
            for dark in (False, True)
            for device, width in _WIDTHS_PX.items()
            if content.html is not None
        ],
        "source": message.octets.decode("utf-8", "replace").replace("\r\n", "\n"),
        "size": len(message.octets),
    }


def _parsed(message: Message) -> "EmailMessage[Any, Any]":
    parsed = email.message_from_bytes(message.octets, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def _content(part: "EmailMessage[Any, Any] | MIMEPart[Any, Any] | None") -> str | None:
    return None if part is None else str(part.get_content()).replace("\r\n", "\n")


def _in_color_scheme(html: str, *, dark: bool) -> str:
    """Return the HTML so that it shows light or dark colors, whatever the scheme of the reader's own system is."""
    html = _DARK_QUERY.sub(_ALWAYS if dark else _NEVER, html)
    return _COLOR_SCHEMES.sub(r"\1dark" if dark else r"\1light", html)
