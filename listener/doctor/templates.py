"""The messages of a rule: rendered for real rows and for a hostile one, in every language, and then examined."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from secrets import token_bytes
from typing import Any

from listener.address import Address, parse_address
from listener.config.rules import APPLICATION, OWN_COLUMNS, Rule
from listener.config.settings import Settings
from listener.doctor.context import Context, RowSample
from listener.doctor.result import Finding, NotChecked, fault, ok, warn
from listener.errors import BadData, RuleBroken
from listener.mail.composer import Composer, Message
from listener.mail.lint import lint
from listener.mail.message import Content
from listener.message_id import make_message_id
from listener.outbox.event import Event
from listener.worker.decision import ToSend
from listener.worker.lookup import Lookup
from listener.worker.lookup_result import LookupResult

# A text that a user of the application could have entered: markup, template syntax, line ends, invisible characters.
HOSTILE = (
    "x\"'><script>alert(1)</script><img src=x onerror=y>&lt;{{ 7 * 7 }}{% x %}\r\nBcc: x@example.org\u2028\u202e\0"
)
# How Python writes NULL. A template that makes a text of it by itself prints this.
_NONE = re.compile(r"\bNone\b")
# A line shows this many remarks; `preview` shows all.
_MAX_SHOWN = 3


async def template(context: Context, rule: str) -> Finding:
    """Compile the template, compare its variables with the lookup's columns, and render it for the newest rows.

    Each row is rendered once more with NULL in every column that may be NULL.
    """
    settings = context.settings
    name = settings.rules[rule].template
    try:
        templates = context.templates(name)
    except RuleBroken as exc:
        return fault(str(exc), f"correct template {name} in the folder [mail] templates")
    if (sample := context.samples.get(rule)) is None:
        raise NotChecked("the template compiles; without its lookup there is no row to render")
    try:
        composer = Composer(settings, templates, token_bytes(32))
        composer.check(rule, sample.columns)
    except RuleBroken as exc:
        return fault(str(exc), f"add it to the SELECT of [rules.{rule}] lookup, or remove it from the template")  # noqa: S608
    trial = _Trial(rule, settings.rules[rule], composer)
    languages = templates.languages(name) if "language" in sample.columns else [""]
    rendered, failures, lacking, left_out = 0, list[str](), None, None
    for key, recipient, row in _sendable(settings.rules[rule], rule, sample):
        try:
            message = trial.compose(key, recipient, row)
            if message.remarks:
                left_out = left_out or f"{message.remarks[0]} (key {key})"
            if not rendered:
                context.messages[rule] = [
                    (language or "default", trial.compose(key, recipient, {**row, "language": language}))
                    for language in languages
                ]
                # Rules with the same template and the same columns share the answer.
                kind = name, sample.columns
                if kind not in context.injections:
                    context.injections[kind] = trial.injection(key, recipient, row, languages)
                injection = context.injections[kind]
            lacking = lacking or trial.lacking(key, recipient, row, message)
        except BadData as exc:
            failures.append(f"key {key}: {exc}")
        else:
            rendered += 1
        # Rendering takes the processor. Other checks must not run into their time-outs meanwhile.
        await asyncio.sleep(0)
    if failures:
        seen = f"fails for {len(failures)} of {rendered + len(failures)} rows; {failures[0]}"
        remedy = f"correct template {name}; look at the result with pgherald preview {rule} --key KEY"
        return warn(seen, remedy) if rendered else fault(seen, remedy)
    if not rendered:
        context.messages[rule] = []
        return ok(f"{name} compiles; no row to render it for")
    if injection is not None:
        return warn(f"{name}: {injection[0]}", injection[1])
    if lacking is not None:
        remedy = (
            f"write {{{{ x | default('…', true) }}}} in template {name}, or add the columns to [rules.{rule}] require"
        )
        return warn(f"{name}: {lacking}", remedy)
    if left_out is not None:
        return warn(f"{name}: {left_out}", f"correct that column of [rules.{rule}] lookup, the rows or the template")
    translated = f", in {len(languages)} languages" if len(languages) > 1 else ""
    return ok(f"{name} renders for {rendered} row{'s' if rendered != 1 else ''}, NULL and hostile text{translated}")


async def mail(context: Context, rule: str) -> Finding:
    """Examine the finished messages, and the links that they should have."""
    remarks = list(_unlinked(context.settings, rule))
    if (messages := context.messages.get(rule)) is None:
        if remarks:
            return warn("; ".join(remarks), f"set the keys in [mail] and [http], or correct [rules.{rule}]")
        raise NotChecked("no message could be composed")
    if not messages and not remarks:
        return ok("no row to compose a message for")
    for language, message in messages:
        where = f" ({language})" if len(messages) > 1 else ""
        remarks += [f"{remark}{where}" for remark in lint(message)]
    if remarks:
        more = f"; and {len(remarks) - _MAX_SHOWN} more" if len(remarks) > _MAX_SHOWN else ""
        remedy = f"correct template {context.settings.rules[rule].template}"
        return warn(
            "; ".join(remarks[:_MAX_SHOWN]) + more,
            f"{remedy}; pgherald preview {rule} --out FOLDER shows the message and all remarks",
        )
    largest = max(len(message.octets) for _, message in messages)
    return ok(f"{largest / 1000:.1f} KB at most; no problem found")


def _unlinked(settings: Settings, name: str) -> Iterator[str]:
    """Yield a remark for each link that is configured but cannot be in the message."""
    rule, public = settings.rules[name], settings.http.public_url
    if rule.link and not settings.mail.base_url:
        yield "link needs [mail] base_url: the email has no button"
    if rule.unsubscribe == APPLICATION:
        public = public or settings.mail.base_url
    if rule.unsubscribe and not public:
        has = "only the address to write to" if settings.mail.unsubscribe_mailto else "no List-Unsubscribe"
        yield f"unsubscribe needs [http] public_url: the email has {has}"
    elif rule.unsubscribe and not public.startswith("https:"):
        yield f"{public} is not https: the email has no List-Unsubscribe-Post, so no one-click unsubscribe"


class _Trial:
    """Composes messages of one rule, which nobody gets."""

    def __init__(self, rule: str, configured: Rule, composer: Composer) -> None:
        self._rule = rule
        self._needed = {*OWN_COLUMNS, *configured.require}
        self._composer = composer

    def compose(self, key: str, recipient: Address, row: Mapping[str, Any]) -> Message:
        """Compose the message for a row as the daemon would, for an event that does not exist."""
        now = datetime.now(UTC)
        return self._composer.compose(
            self._rule, key, row, recipient, make_message_id(b"doctor", self._rule, 0, now), now
        )

    def lacking(self, key: str, recipient: Address, row: Mapping[str, Any], expected: Message) -> str | None:
        """Return what is wrong if every column that may be NULL is. None if nothing is. `expected` is the row's message."""
        columns = [name for name in row if name not in self._needed and name != "language"]
        try:
            made = self.compose(key, recipient, {**row, **dict.fromkeys(columns)}).content
        except BadData as exc:
            return f"fails if {_listed(columns)} NULL (key {key}): {exc}"
        for part in ("subject", "text", "html", "calendar"):
            before, after = (_NONE.findall(getattr(each, part) or "") for each in (expected.content, made))
            if len(after) > len(before):
                return f"prints None in the {part} if {_listed(columns)} NULL (key {key})"
        return None

    def injection(
        self, key: str, recipient: Address, row: Mapping[str, Any], languages: list[str]
    ) -> tuple[str, str] | None:
        """Return how a hostile text in the row changes the message, and the remedy. None if it does not."""
        for language in languages:
            where = f" ({language})" if language else ""
            plain, hostile = (
                {name: value if name in OWN_COLUMNS else _with_text(value, text) for name, value in row.items()}
                | {"language": language}
                for text in ("x", HOSTILE)
            )
            try:
                expected, made = (self.compose(key, recipient, each).content for each in (plain, hostile))
            except BadData as exc:
                return (
                    f"fails for a text that contains markup{where}: {exc}",
                    "change the template so that it accepts any text",
                )
            if _tags(made.html) != _tags(expected.html):
                return (
                    f"a text of the row becomes markup in the HTML part{where}: its author controls the email",
                    "remove | safe and {% autoescape false %}, put quotes around attribute values, and single quotes around | tojson",
                )
            if _lines(made) != _lines(expected):
                changes = [name for name, value in plain.items() if hostile[name] != value]
                column = next(
                    (each for each in changes if self._breaks_line(key, recipient, plain, each, hostile[each])),
                    changes[0],
                )
                return (
                    f"the text of {column} can begin a new line in the text part{where}, as if you had written it",
                    f"put it on one line: {{{{ {column} | oneline }}}}",
                )
        return None

    def _breaks_line(self, key: str, recipient: Address, row: Mapping[str, Any], column: str, text: Any) -> bool:
        """Return whether this text in this column alone changes the number of lines of the text part."""
        try:
            plain, made = (self.compose(key, recipient, each).content for each in (row, {**row, column: text}))
            return _lines(made) != _lines(plain)
        except BadData:
            return False


def _lines(content: Content) -> int:
    return len(content.text.splitlines())


def _sendable(rule: Rule, name: str, sample: RowSample) -> Iterator[tuple[str, Address, dict[str, Any]]]:
    """Yield the rows that would be sent if they had the rule's value and consent. No others reach the template."""
    decide = Lookup(name, rule).decide
    for key, rows in sample.rows.items():
        event = Event(0, name, key, 0, 0, datetime.now(UTC), 0.0, 0, False, None)
        decision = decide(event, LookupResult({key: [{**row, "consent": True} for row in rows]}))
        if isinstance(decision, ToSend):
            yield key, parse_address(str(rows[0]["email"])), rows[0]


def _with_text(value: Any, text: str) -> Any:
    """Return a value of a row with another text in the place of each text in it."""
    match value:
        case str():
            return text
        case list() | tuple():
            return [_with_text(each, text) for each in value]
        case dict():
            return {key: _with_text(each, text) for key, each in value.items()}
    return value


def _listed(columns: Sequence[str]) -> str:
    return f"{', '.join(columns)} {'is' if len(columns) == 1 else 'are'}"


def _tags(html: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return the tags of a page, each with the names of its attributes."""
    found: list[tuple[str, tuple[str, ...]]] = []

    class Tags(HTMLParser):
        """Collects the start tags."""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, tuple(name for name, _ in attrs)))

    parser = Tags()
    parser.feed(html or "")
    parser.close()
    return found
