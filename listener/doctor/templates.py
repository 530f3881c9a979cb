"""What a rule's mail looks like: made of real rows, of a hostile one, in every language, and read with a critic's eye."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from secrets import token_bytes
from typing import Any

from listener.address import Address, parse_address
from listener.config.rules import APPLICATION, OWN_COLUMNS, Rule
from listener.config.settings import Settings
from listener.doctor.context import Context, RowSample
from listener.doctor.result import CheckResult, NotChecked, fault, ok, warn
from listener.errors import BadData, ConfigError, RuleBroken
from listener.mail.composer import Composer, Message
from listener.mail.lint import lint
from listener.mail.message import make_message_id
from listener.mail.templates import Templates
from listener.mail.unsubscribe import check
from listener.outbox.event import Event
from listener.worker.lookup import Lookup, ToSend

# What somebody may have typed where a place was asked for.
HOSTILE = (
    "x\"'><script>alert(1)</script><img src=x onerror=y>&lt;{{ 7 * 7 }}{% x %}\r\nBcc: x@example.org\u2028\u202e\0"
)
_SHOWN = 3


async def template(context: Context, rule: str) -> CheckResult:
    """Compiled, its variables against the lookup's columns, and made a message of for the newest rows."""
    settings = context.settings
    name = settings.rules[rule].template
    try:
        templates = Templates({name}, settings.mail.templates)
    except RuleBroken as exc:
        return fault(str(exc), f"the file is {name}'s; see [mail] templates")
    if (sample := context.samples.get(rule)) is None:
        raise NotChecked("compiles, but the lookup gives it no row")
    try:
        composer = Composer(settings, templates, token_bytes(32))
        composer.check(rule, sample.columns)
    except ConfigError as exc:
        return fault(str(exc), "correct it in [mail]")
    except RuleBroken as exc:
        return fault(str(exc), f"name it in the SELECT of [rules.{rule}] lookup, or take it out of the template")
    letters = _Letters(rule, composer)
    languages = templates.languages(name) if "language" in sample.columns else [""]
    made, broken = 0, list[str]()
    for key, recipient, row in _mailable(settings.rules[rule], rule, sample):
        try:
            letters.write(key, recipient, row)
            if not made:
                context.letters[rule] = [
                    (language or "default", letters.write(key, recipient, {**row, "language": language}))
                    for language in languages
                ]
                hole = letters.hole(key, recipient, row, languages)
        except BadData as exc:
            broken.append(f"key {key}: {exc}")
        else:
            made += 1
    if broken:
        seen = f"fails for {len(broken)} of {made + len(broken)} rows; {broken[0]}"
        remedy = f"correct the template {name}; see it with pgherald preview {rule} --key KEY"
        return warn(seen, remedy) if made else fault(seen, remedy)
    if not made:
        context.letters[rule] = []
        return ok(f"{name} compiles; there is no row to try it with")
    if hole is not None:
        return warn(f"{name}: {hole[0]}", hole[1])
    translated = f", in {len(languages)} languages" if len(languages) > 1 else ""
    return ok(f"{name} renders, tried with {made} row{'s' if made != 1 else ''} and a hostile one{translated}")


async def mail(context: Context, rule: str) -> CheckResult:
    """The finished messages, for what mail programs and their users make of them."""
    remarks = list(_unlinked(context.settings, rule))
    if (letters := context.letters.get(rule)) is None:
        if remarks:
            return warn("; ".join(remarks), f"correct it in [rules.{rule}] or [mail] and [http]")
        raise NotChecked("there is no message to look at")
    if not letters and not remarks:
        return ok("there is no row to make a message of")
    for language, message in letters:
        where = f" ({language})" if len(letters) > 1 else ""
        remarks += [f"{remark}{where}" for remark in lint(message)]
    if remarks:
        more = f"; and {len(remarks) - _SHOWN} more" if len(remarks) > _SHOWN else ""
        remedy = f"correct the template {context.settings.rules[rule].template}, or the configuration"
        return warn("; ".join(remarks[:_SHOWN]) + more, f"{remedy}; pgherald preview {rule} --out FOLDER shows all")
    largest = max(len(message.octets) for _, message in letters)
    return ok(f"{largest / 1000:.1f} KB at most; nothing to remark")


async def unsubscribe(context: Context, rule: str) -> CheckResult:
    """Whether the statement could be run by this role; it is not."""
    try:
        async with context.reading() as conn:
            await check(conn, rule, context.settings.rules[rule])
    except RuleBroken as exc:
        if "permission denied" in str(exc):
            return fault(str(exc), "GRANT what it takes, and no more, to the daemon's role")
        return fault(str(exc), f"correct [rules.{rule}] unsubscribe")
    return ok("the statement could be run")


def _unlinked(settings: Settings, name: str) -> Iterator[str]:
    rule, public = settings.rules[name], settings.http.public_url
    if rule.link and not settings.mail.base_url:
        yield "link is set and [mail] base_url is not: there is no button"
    if rule.unsubscribe == APPLICATION:
        public = public or settings.mail.base_url
    if rule.unsubscribe and not public:
        yield "unsubscribe is set and [http] public_url is not: there is no List-Unsubscribe"
    elif rule.unsubscribe and not public.startswith("https:"):
        yield f"{public} is not https: there is no List-Unsubscribe-Post, and no one-click"


class _Letters:
    def __init__(self, rule: str, composer: Composer) -> None:
        self._rule = rule
        self._composer = composer

    def write(self, key: str, recipient: Address, row: Mapping[str, Any]) -> Message:
        now = datetime.now(UTC)
        return self._composer.compose(
            self._rule, key, row, recipient, make_message_id(b"doctor", self._rule, 0, now), now
        )

    def hole(
        self, key: str, recipient: Address, row: Mapping[str, Any], languages: list[str]
    ) -> tuple[str, str] | None:
        """How a hostile text in the row gets through, and the remedy."""
        texts = [name for name, value in row.items() if isinstance(value, str) and name not in OWN_COLUMNS]
        for language in languages:
            where = f" ({language})" if language else ""
            plain, hostile = ({**row, **dict.fromkeys(texts, text), "language": language} for text in ("x", HOSTILE))
            try:
                expected, made = (self.write(key, recipient, each).content for each in (plain, hostile))
            except BadData as exc:
                return f"fails on a text with markup in it{where}: {exc}", "let it take any text"
            if _tags(made.html) != _tags(expected.html):
                return (
                    f"a text of the row becomes markup in the HTML{where}: whoever writes it writes the mail",
                    "take | safe out, and put quotes around attributes",
                )
            if len(made.text.splitlines()) != len(expected.text.splitlines()):
                return (
                    f"a text of the row can begin a line of its own in the text part{where}, as if you had written it",
                    "{{ place | oneline }}",
                )
        return None


def _mailable(rule: Rule, name: str, sample: RowSample) -> Iterator[tuple[str, Address, dict[str, Any]]]:
    """The rows that could be mailed, had they the value and consent: others never come to the template."""
    judge = Lookup(name, rule).decide
    for key, rows in sample.rows.items():
        event = Event(0, name, key, 0, 0, datetime.now(UTC), 0.0, 0, False, None)
        verdict = judge(event, [{**row, "current": rule.becomes, "consent": True} for row in rows])
        if isinstance(verdict, ToSend):
            yield key, parse_address(str(rows[0]["email"])), rows[0]


def _tags(html: str | None) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, tuple(name for name, _ in attrs)))

    parser = Tags()
    parser.feed(html or "")
    parser.close()
    return found
