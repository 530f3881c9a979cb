"""Composes the message of a rule for one row: its links, its words and its bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from listener.address import Address
from listener.config.keys import show_key
from listener.config.rules import APPLICATION, BUILT_IN_VARIABLES, OWN_COLUMNS, PLACEHOLDER, Rule
from listener.config.sections import Mail
from listener.config.settings import Settings
from listener.errors import RuleBroken
from listener.mail.calendar import Publication, make_uid, uid_key
from listener.mail.language import tag_of
from listener.mail.message import Content, MessageDefaults, build
from listener.mail.row_headers import row_headers
from listener.mail.templates import Templates
from listener.mail.unsubscribe import Subscription, make_token, signing_key
from listener.recipients import RecipientPolicy

# Some mail programs and browsers cut or refuse URLs longer than about 2,000 characters.
_MAX_LINK_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Message:
    """A composed message."""

    key: str
    """the message id: the left part of the Message-ID header, and the same each time the message is sent"""
    recipient: Address
    """the address that gets the message, after any redirection"""
    content: Content
    octets: bytes
    """the whole message as it is sent (RFC 5322)"""
    remarks: tuple[str, ...] = ()
    """one sentence for each part that a row should have given and that was left out, without its value"""


def templates(settings: Settings) -> Templates:
    """Return the compiled templates of all rules.

    Raises:
        RuleBroken: A template is missing or invalid.
    """
    return Templates({rule.template for rule in settings.rules.values()}, settings.mail.templates)


def message_defaults(mail: Mail) -> MessageDefaults:
    """Return the headers that all messages of a rule share."""
    return MessageDefaults(mail.sender, mail.idempotency_header, mail.reply_to, mail.headers)


class Composer:
    """Composes the messages of all rules. The same row and date always give the same bytes.

    `recipients` decides which addresses may get mail at all. `secret` is the one of the database.
    """

    def __init__(self, settings: Settings, templates: Templates, secret: bytes) -> None:
        mail = settings.mail
        self._defaults = {name: message_defaults(settings.mail_of(name)) for name in settings.rules}
        self.recipients = RecipientPolicy(mail.allowed_recipients, mail.redirect_to)
        self._rules = settings.rules
        self._base_url = mail.base_url
        self._unsubscribe_url = settings.http.public_url
        self._unsubscribe_mailto = mail.unsubscribe_mailto
        self._templates = templates
        self._signing_key = signing_key(secret)
        self._uid_key = uid_key(secret)

    def check(self, name: str, columns: frozenset[str]) -> None:
        """Check that a lookup with these columns returns all that the template and the link of the rule use.

        Raises:
            RuleBroken: A column is missing, or has a name that pgherald needs. Every row would fail.
        """
        rule = self._rules[name]
        if taken := sorted(columns & set(BUILT_IN_VARIABLES)):
            raise RuleBroken(
                f"the lookup of rule {name} returns a column {taken[0]!r}, a name that pgherald uses itself; rename it"
            )
        wanted = self._templates.variables(rule.template, translated="language" in columns)
        if missing := sorted(wanted - columns):
            returned = [*(column for column in OWN_COLUMNS if column in columns), *sorted(columns - set(OWN_COLUMNS))]
            raise RuleBroken(
                f"template {rule.template} of rule {name} uses {{{{ {missing[0]} }}}}; "
                f"the lookup returns only {', '.join(returned)}"
            )
        if missing := sorted(set(PLACEHOLDER.findall(rule.link)) - columns):
            raise RuleBroken(f"[rules.{name}] link uses {{{missing[0]}}}, which the lookup does not return")

    def compose(
        self,
        name: str,
        key: str,
        row: Mapping[str, Any],
        recipient: Address,
        message_id: str,
        date: datetime,
        captured_at: datetime | None = None,
        person: str | None = None,
    ) -> Message:
        """Compose the message of rule `name` for one row of its lookup.

        `key` is the key of the watched row. The message goes to `recipient`, unless ``mail.redirect_to`` is set. `date`
        is the time of this call, by the database's clock. `captured_at` is the time of the change, or None for `date`.
        `person` is whom a rule with `each` tells.

        Raises:
            BadData: This row cannot be rendered, or its message would be too large.
            RuleBroken: The template uses a variable that no row has.
        """
        rule, defaults = self._rules[name], self._defaults[name]
        urls = list(self._unsubscribe_urls(Subscription(name, key, tag_of(row.get("language")), person or "")))
        page = next((url for url in urls if url.startswith("http")), None)
        made = {"link": self._link(rule, key, row), "unsubscribe": page}
        publication = None
        if self._templates.has_calendar(rule.template):
            sender = defaults.sender
            uid = make_uid(self._uid_key, name, key, sender.address.domain)
            publication = Publication(uid, captured_at or date, sender)
        content = self._templates.render(rule.template, {**row, **made}, publication)
        actual = self.recipients.route(recipient)
        own = row_headers(row, self.recipients)
        fault = content.calendar_fault
        remarks = (*own.remarks, *([f"the calendar entry is left out: {fault}"] if fault else []))
        octets = build(
            defaults,
            content,
            actual,
            message_id,
            date,
            sender_name=own.from_name,
            reply_to=own.reply_to,
            unsubscribe=urls,
            original_recipient=recipient if actual != recipient else None,
        )
        return Message(message_id, actual, content, octets, remarks)

    def _link(self, rule: Rule, key: str, row: Mapping[str, Any]) -> str | None:
        """Return the link of the message.

        Return None if no link is configured, or if a value in it is NULL or cannot be part of a path.
        """
        if not rule.link or not self._base_url:
            return None
        values = {**row, "key": show_key(rule, key)}
        parts = [values[name] for name in PLACEHOLDER.findall(rule.link)]
        # A part of dots alone would lead to another page, even if it is quoted (RFC 3986 5.2.4).
        if any(part is None or str(part) in ("", ".", "..") for part in parts):
            return None
        path = PLACEHOLDER.sub(lambda found: quote(str(values[found[1]]), safe="", errors="replace"), rule.link)
        link = self._base_url + path
        return link if len(link) <= _MAX_LINK_CHARS else None

    def _unsubscribe_urls(self, subscription: Subscription) -> Iterator[str]:
        """Yield the URLs of List-Unsubscribe, the page before the mailbox: mail programs take the first they can use."""
        rule = self._rules[subscription.rule]
        base = self._unsubscribe_url or (self._base_url if rule.unsubscribe == APPLICATION else "")
        if not rule.unsubscribe or not (base or self._unsubscribe_mailto):
            return
        if (token := make_token(self._signing_key, subscription)) is None:
            return
        if base:
            yield f"{base}/unsubscribe/{token}"
        if self._unsubscribe_mailto:
            yield f"mailto:{self._unsubscribe_mailto}?subject=unsubscribe-{token}"
