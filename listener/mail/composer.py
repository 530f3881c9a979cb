"""A row becomes a message: its links, its words, its bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from listener.address import Address
from listener.config.keys import show_key
from listener.config.rules import APPLICATION, BUILT_IN_VARIABLES, OWN_COLUMNS, PLACEHOLDER, Rule
from listener.config.settings import Settings
from listener.errors import ConfigError, RuleBroken
from listener.mail.message import Content, MessageDefaults, build
from listener.mail.templates import Templates
from listener.mail.unsubscribe import Subscription, make_token, signing_key
from listener.recipients import RecipientPolicy

# Longer ones are cut or refused on the way.
_LONGEST_LINK = 2000


@dataclass(frozen=True, slots=True)
class Message:
    """`key`: its name in the world, also the left part of its Message-ID."""

    key: str
    recipient: Address
    content: Content
    octets: bytes


def templates(settings: Settings) -> Templates:
    """Those of all rules. Raises `RuleBroken`."""
    return Templates({rule.template for rule in settings.rules.values()}, settings.mail.templates)


class Composer:
    """Makes the messages of every rule, the same for the same row. Raises `ConfigError` for a header that cannot be."""

    def __init__(self, settings: Settings, templates: Templates, secret: bytes) -> None:
        mail = settings.mail
        feedback = (("Feedback-ID", mail.feedback_id),) if mail.feedback_id else ()
        try:
            self._defaults = MessageDefaults(
                sender=mail.sender, idempotency_header=mail.idempotency_header, headers=feedback
            )
        except ValueError as exc:
            raise ConfigError(f"[mail] idempotency_header or feedback_id: {exc}") from exc
        self.recipients = RecipientPolicy(mail.allowed_recipients, mail.redirect_to)
        self._rules = settings.rules
        self._base_url = mail.base_url
        self._unsubscribe_url = settings.http.public_url
        self._templates = templates
        self._signing_key = signing_key(secret)

    def check(self, name: str, columns: frozenset[str]) -> None:
        """Whether the lookup gives what template and link take.

        Raises:
            RuleBroken: it does not, as for every row.
        """
        rule = self._rules[name]
        if taken := sorted(columns & set(BUILT_IN_VARIABLES)):
            raise RuleBroken(
                f"the lookup of rule {name} gives a column {taken[0]!r}, which pgherald makes itself; call it otherwise"
            )
        wanted = self._templates.variables(rule.template, translated="language" in columns)
        if missing := sorted(wanted - columns):
            raise RuleBroken(
                f"template {rule.template} of rule {name} takes {missing[0]!r}, which the lookup does not give; "
                f"it gives {', '.join(sorted(columns - set(OWN_COLUMNS))) or 'nothing of its own'}"
            )
        if missing := sorted(set(PLACEHOLDER.findall(rule.link)) - columns):
            raise RuleBroken(f"[rules.{name}] link takes {{{missing[0]}}}, which the lookup does not give")

    def compose(
        self, name: str, key: str, row: Mapping[str, Any], recipient: Address, message_key: str, date: datetime
    ) -> Message:
        """`key` and `row` are the watched row's; the message goes to `recipient`, unless all mail is redirected.

        Raises:
            BadData: it cannot be made of this row.
            RuleBroken: nor of any other.
        """
        rule = self._rules[name]
        unsubscribe = self._unsubscribe(name, rule, key)
        made = {"link": self._link(rule, key, row), "unsubscribe": unsubscribe}
        content = self._templates.render(rule.template, {**row, **made})
        actual = self.recipients.route(recipient)
        octets = build(
            self._defaults,
            content,
            actual,
            message_key,
            date,
            unsubscribe=unsubscribe,
            original_recipient=recipient if actual != recipient else None,
        )
        return Message(message_key, actual, content, octets)

    def _link(self, rule: Rule, key: str, row: Mapping[str, Any]) -> str | None:
        """None where there is none to make: not configured, or of a value that is NULL, or no part of a path."""
        if not rule.link or not self._base_url:
            return None
        values = {**row, "key": show_key(rule, key)}
        parts = [values[name] for name in PLACEHOLDER.findall(rule.link)]
        # Dots alone would lead to another page, however they are quoted (RFC 3986 5.2.4).
        if any(part is None or str(part) in ("", ".", "..") for part in parts):
            return None
        path = PLACEHOLDER.sub(lambda found: quote(str(values[found[1]]), safe="", errors="replace"), rule.link)
        link = self._base_url + path
        return link if len(link) <= _LONGEST_LINK else None

    def _unsubscribe(self, name: str, rule: Rule, key: str) -> str | None:
        base = self._unsubscribe_url or (self._base_url if rule.unsubscribe == APPLICATION else "")
        if not rule.unsubscribe or not base:
            return None
        token = make_token(self._signing_key, Subscription(name, key))
        return f"{base}/unsubscribe/{token}" if token is not None else None
