"""What preview shows: a message as its readers and a server see it, side by side on one page."""

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

_DARK = re.compile(r"\(\s*prefers-color-scheme\s*:\s*dark\s*\)")
_SCHEMES = re.compile(r"(color-scheme\s*:\s*)light dark")
_ALWAYS, _NEVER = "(min-width: 0)", "(max-width: 0)"


def read(message: Message) -> Content:
    """What a mail program reads: without the control characters that a row may have held, safe for a terminal."""
    parsed = _parsed(message)
    text, html = (parsed.get_body((subtype,)) for subtype in ("plain", "html"))
    return Content(str(parsed["Subject"]), _content(text) or "", _content(html))


def page(rule: str, key: str, messages: Mapping[str, Message]) -> str:
    """`messages` by a name for each. Loads nothing and runs nothing: the mails are in frames without scripts."""
    environment = Environment(
        loader=FileSystemLoader(resource("templates")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    letters = [_letter(name, message) for name, message in messages.items()]
    return environment.get_template("_preview.html.j2").render(rule=rule, key=key, letters=letters)


def _letter(name: str, message: Message) -> dict[str, object]:
    content = read(message)
    return {
        "name": name,
        "content": content,
        "remarks": lint(message),
        "headers": [
            (name, value) for name, value in _parsed(message).items() if not name.lower().startswith("content-")
        ],
        "pages": [
            (f"{device}, {'dark' if dark else 'light'}", width, _in_scheme(content.html, dark=dark))
            for dark in (False, True)
            for device, width in (("Desktop", 660), ("Phone", 360))
            if content.html is not None
        ],
        "source": message.octets.decode("utf-8", "replace").replace("\r\n", "\n"),
        "octets": len(message.octets),
    }


def _parsed(message: Message) -> "EmailMessage[Any, Any]":
    parsed = email.message_from_bytes(message.octets, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def _content(part: "MIMEPart[Any, Any] | None") -> str | None:
    return None if part is None else str(part.get_content()).replace("\r\n", "\n")


def _in_scheme(html: str, *, dark: bool) -> str:
    """As if the reader's system were light, or dark, whatever it is."""
    html = _DARK.sub(_ALWAYS if dark else _NEVER, html)
    return _SCHEMES.sub(r"\1dark" if dark else r"\1light", html)
