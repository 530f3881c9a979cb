"""A row becomes a message: its links and its headers, whatever the row holds."""

import email
import email.policy
import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.address import parse_address
from listener.config.rules import Rule, default_rules
from listener.config.settings import Settings
from listener.errors import RuleBroken
from listener.mail.composer import Composer, Message
from listener.mail.templates import Templates
from listener.mail.unsubscribe import Subscription, read_token, signing_key

NAME = "dateplan_verified"
SECRET = b"s" * 32
NOW = datetime(2026, 11, 22, 9, 5, tzinfo=UTC)
JANE = parse_address("jane@example.org")
TEMPLATES = Templates([NAME])
STATEMENT = "UPDATE public.users SET ok = false WHERE id = ANY (%(keys)s::bigint[])"
LINKED = {"link": "/dateplans/{key}"}
ADDRESSES = {"mail": {"base_url": "https://app.example.org/"}, "http": {"public_url": "https://mail.example.org"}}


def composer(rule: dict[str, Any] | None = None, **sections: Any) -> Composer:
    settings = Settings.model_validate(
        {"rules": {NAME: {**default_rules()[NAME].model_dump(exclude_unset=True), **(rule or {})}}}
    )
    for section, keys in sections.items():
        model = type(getattr(settings, section))
        settings = settings.model_copy(update={section: model.model_validate(keys)})
    return Composer(settings, TEMPLATES, SECRET)


def compose(composer: Composer, key: str = "4711", **row: Any) -> tuple[Message, "EmailMessage[Any, Any]"]:
    row = {"key": key, "current": "VE", "email": "jane@example.org", "consent": True, "place": "Café", **row}
    message = composer.compose(NAME, key, row, JANE, "k" * 26, NOW)
    return message, email.message_from_bytes(message.octets, policy=email.policy.default)


def test_without_addresses_there_are_no_links_and_no_headers() -> None:
    message, parsed = compose(composer({**LINKED, "unsubscribe": STATEMENT}))
    assert "http" not in message.content.text + (message.content.html or "")
    assert not [name for name in parsed.keys() if name.startswith(("List-", "Feedback", "X-Original"))]  # noqa: SIM118


def test_both_parts_carry_the_full_link() -> None:
    message, _ = compose(composer(LINKED, **ADDRESSES))
    link = "https://app.example.org/dateplans/4711"
    assert f"See your plan: {link}\n" in message.content.text
    assert f'<a href="{link}"' in (message.content.html or "")


@pytest.mark.parametrize(
    ("link", "key", "row", "made"),
    [
        ("/d/{key}", "a/../b?c#d", {}, "/d/a%2F..%2Fb%3Fc%23d"),
        ("/d/{key}", '"><script>', {}, "/d/%22%3E%3Cscript%3E"),
        ("/d/{key}", "é 🎉", {}, "/d/%C3%A9%20%F0%9F%8E%89"),
        ("/d/{slug}/{key}?from=mail&n={slug}", "7", {"slug": "a&b"}, "/d/a%26b/7?from=mail&n=a%26b"),
        ("/d/", "7", {}, "/d/"),
        ("/d/{key}", "..", {}, None),
        ("/d/{key}", "", {}, None),
        ("/d/{slug}", "7", {"slug": None}, None),
        ("/d/{key}", "x" * 3000, {}, None),
        ("/d/{key}", "\ud800", {}, "/d/%3F"),
    ],
)
def test_a_link_is_a_path_of_ours_whatever_the_key(link: str, key: str, row: Any, made: str | None) -> None:
    message, _ = compose(composer({"link": link}, **ADDRESSES), key, **row)
    found = re.search(r"See your plan: (\S+)", message.content.text)
    assert (found[1] if found else None) == (f"https://app.example.org{made}" if made else None)


@given(st.text(min_size=1, max_size=50))
@example("{key}")
@example("%2e%2e")
@example("@evil.example/")
def test_no_key_leads_elsewhere(key: str) -> None:
    message, _ = compose(composer(LINKED, **ADDRESSES), key)
    if found := re.search(r"See your plan: (.*)", message.content.text):
        parts = urlsplit(found[1])
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("https", "app.example.org", "", "")
        assert parts.path.count("/") == 2
        assert unquote(parts.path.rpartition("/")[2]) == key.encode("utf-8", "replace").decode()


def test_a_composite_key_is_in_the_link_as_people_type_it() -> None:
    message, _ = compose(composer({**LINKED, "key": ["region", "no"]}, **ADDRESSES), "{eu,7}")
    assert "See your plan: https://app.example.org/dateplans/eu%2C7\n" in message.content.text


@pytest.mark.parametrize(
    ("statement", "sections", "base"),
    [
        (STATEMENT, ADDRESSES, "https://mail.example.org"),
        (STATEMENT, {"mail": ADDRESSES["mail"]}, None),
        ("", ADDRESSES, None),
        ("application", ADDRESSES, "https://mail.example.org"),
        ("application", {"mail": ADDRESSES["mail"]}, "https://app.example.org"),
        ("application", {}, None),
    ],
)
def test_one_click_unsubscribe(statement: str, sections: dict[str, Any], base: str | None) -> None:
    message, parsed = compose(composer({"unsubscribe": statement}, **sections))
    if base is None:
        assert "List-Unsubscribe" not in parsed
        assert "List-Unsubscribe-Post" not in parsed
        return
    url = str(parsed["List-Unsubscribe"])
    assert re.fullmatch(rf"<{base}/unsubscribe/[a-z0-9]+>", url)
    assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert read_token(signing_key(SECRET), url.rpartition("/")[2].rstrip(">")) == Subscription(NAME, "4711")
    assert f"Unsubscribe: {url.strip('<>')}\n" in message.content.text
    assert f'href="{url.strip("<>")}"' in (message.content.html or "")


@pytest.mark.parametrize(
    ("language", "tag"),
    [("de", "de"), ("de_AT", "de-at"), (None, ""), (7, ""), ("x:y", ""), ("fr-fr:7", "fr"), ("\u202e", "")],
)
def test_the_token_knows_the_readers_language(language: Any, tag: str) -> None:
    _, parsed = compose(composer({"unsubscribe": STATEMENT}, **ADDRESSES), language=language)
    token = str(parsed["List-Unsubscribe"]).rpartition("/")[2].rstrip(">")
    assert read_token(signing_key(SECRET), token) == Subscription(NAME, "4711", tag)


@pytest.mark.parametrize(
    ("statement", "http", "count"),
    [(STATEMENT, ADDRESSES["http"], 2), (STATEMENT, {}, 1), ("application", {}, 1), ("", ADDRESSES["http"], 0)],
)
def test_a_mailbox_to_unsubscribe(statement: str, http: dict[str, Any], count: int) -> None:
    mail = {"unsubscribe_mailto": "stop+plans@Bücher.example"}
    message, parsed = compose(composer({"unsubscribe": statement}, mail=mail, http=http))
    urls = re.findall("<(.*?)>", str(parsed.get("List-Unsubscribe", "")))
    assert len(urls) == count
    assert ("List-Unsubscribe-Post" in parsed) == (count == 2)
    if count:
        start = "mailto:stop+plans@xn--bcher-kva.example?subject=unsubscribe-"
        assert urls[-1].startswith(start)
        assert read_token(signing_key(SECRET), urls[-1].removeprefix(start)) == Subscription(NAME, "4711")
    assert "mailto:" not in message.content.text


def test_the_longest_token_and_address_fit_the_header() -> None:
    mail = {"unsubscribe_mailto": "a" * 64 + "@" + ".".join(["b" * 61] * 3)}
    http = {"public_url": "https://" + "c" * 60 + "." + "d" * 60 + ".example/" + "e" * 60}
    _, parsed = compose(composer({"unsubscribe": STATEMENT}, mail=mail, http=http), "k" * 335)
    assert len(re.findall("<.*?>", str(parsed["List-Unsubscribe"]))) == 2


@given(st.text(max_size=100), st.text(max_size=60))
@example("x" * 5000, "x\r\nBcc: evil@example.org")
def test_whatever_is_in_the_row_the_message_has_no_defect(key: str, place: str) -> None:
    made = composer({**LINKED, "unsubscribe": STATEMENT}, **{**ADDRESSES, "mail": {**ADDRESSES["mail"], "headers": {"Feedback-ID": "a:b:c:d"}, "redirect_to": "qa@example.org"}})  # fmt: skip
    _, parsed = compose(made, key.encode("utf-8", "ignore").decode(), place=place)
    assert not parsed.defects
    names = {name for name in parsed.keys() if not name.startswith("List-")}  # noqa: SIM118
    assert names == {
        "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Auto-Submitted", "X-Auto-Response-Suppress",
        "Feedback-ID", "X-Pgherald-Key", "X-Original-To", "Content-Type",
    }  # fmt: skip
    for part in parsed.walk():
        assert not part.defects
        assert not [value for value in part.values() if value.defects]
    assert parsed["To"] == "qa@example.org"
    assert parsed["X-Original-To"] == "j***@example.org"
    assert parsed["Feedback-ID"] == "a:b:c:d"


@pytest.mark.parametrize("taken", ["link", "unsubscribe"])
def test_a_column_that_would_be_taken_for_a_link_breaks_the_rule(taken: str) -> None:
    with pytest.raises(RuleBroken, match=f"returns a column '{taken}', a name that pgherald uses itself"):
        composer().check(NAME, frozenset({"key", "current", "email", "consent", "place", taken}))


def test_a_link_of_a_column_that_is_not_there_breaks_the_rule() -> None:
    columns = frozenset({"key", "current", "email", "consent", "place"})
    composer(LINKED).check(NAME, columns)
    with pytest.raises(
        RuleBroken, match=r"\[rules.dateplan_verified\] link uses {slug}, which the lookup does not return"
    ):
        composer({"link": "/d/{slug}"}).check(NAME, columns)


@pytest.mark.parametrize("link", ["d/{key}", "//evil.example/{key}", "https://x/{key}", "/d/{key", "/d/{a b}", "/a b", "/é", "/x\n"])  # fmt: skip
def test_a_link_that_is_no_path_is_refused(link: str) -> None:
    with pytest.raises(ValueError, match="write a path below"):
        Rule.model_validate({**default_rules()[NAME].model_dump(exclude_unset=True), "link": link})


def test_a_row_with_a_start_has_one_entry_for_all_its_events() -> None:
    made = composer(LINKED, **ADDRESSES)
    row = {"place": "Café", "starts_at": NOW, "ends_at": None}

    def entry(key: str, captured_at: datetime) -> dict[str, str]:
        message = made.compose(NAME, key, row, JANE, "k" * 26, NOW, captured_at)
        lines = (message.content.calendar or "").replace("\r\n ", "").splitlines()
        assert message.octets.count(b"Content-Type: text/calendar; method=PUBLISH") == 1
        return dict(line.split(":", 1) for line in lines)

    first, again, other = entry("1", NOW), entry("1", NOW + timedelta(days=1)), entry("2", NOW)
    assert first["UID"] == again["UID"] != other["UID"]
    assert int(first["SEQUENCE"]) + 86_400 == int(again["SEQUENCE"])
    assert (first["DTSTAMP"], again["DTSTAMP"]) == ("20261122T090500Z", "20261123T090500Z")
    assert first["URL"] == "https://app.example.org/dateplans/1"
    assert "DTEND" not in first


def test_a_row_without_a_start_has_the_message_that_it_had() -> None:
    made = composer(LINKED, **ADDRESSES)
    plain, empty = (compose(made, **row)[0] for row in ({}, {"starts_at": None}))
    assert plain.octets == empty.octets
    assert b"text/calendar" not in plain.octets
    assert plain.remarks == empty.remarks == ()


def test_an_entry_that_is_left_out_is_remarked() -> None:
    message, _ = compose(composer(), starts_at=NOW, ends_at=NOW)
    assert message.remarks == ("the calendar entry is left out: DTEND is not after DTSTART",)
    assert b"text/calendar" not in message.octets


ANSWERED = {"mail": {"from": "Plans <no-reply@example.org>", "reply_to": "help@example.org", "headers": {"X-Tag": "a"}}}


def test_a_row_may_name_the_sender_and_the_answers() -> None:
    made = composer(**ANSWERED)
    message, parsed = compose(made, from_name="Müller, Anna", reply_to=["Ben <ben@Bücher.example>", "c@example.org"])
    assert str(parsed["From"]) == '"Müller, Anna" <no-reply@example.org>'
    assert str(parsed["Reply-To"]) == "Ben <ben@xn--bcher-kva.example>, c@example.org"
    assert (parsed["X-Tag"], message.remarks) == ("a", ())
    message, parsed = compose(made, from_name="ceo@bank.example", reply_to="nobody")
    assert (parsed["From"], parsed["Reply-To"]) == ("Plans <no-reply@example.org>", "help@example.org")
    assert len(message.remarks) == 2
    assert compose(composer())[1]["Reply-To"] is None


def test_an_answer_on_a_staging_system_reaches_nobody_real() -> None:
    staging = composer(mail={**ANSWERED["mail"], "redirect_to": "qa@example.org"})
    message, parsed = compose(staging, reply_to="real@example.com")
    assert (parsed["To"], parsed["Reply-To"], message.remarks) == ("qa@example.org", "help@example.org", ())
    assert b"real@example.com" not in message.octets


@given(st.text(max_size=200), st.text(max_size=100) | st.lists(st.text(max_size=60), max_size=4))
@example("x\r\nBcc: evil@example.org", "a@example.org\r\nBcc: evil@example.org")
@example("é" * 100, ["é <a@example.org>"] * 4)
def test_whatever_names_a_row_has_the_headers_are_the_same(name: str, answers: str | list[str]) -> None:
    message, _ = compose(composer(**ANSWERED), from_name=name, reply_to=answers)
    parsed = email.message_from_bytes(message.octets, policy=email.policy.SMTP)
    assert parsed.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Auto-Submitted",
        "X-Auto-Response-Suppress", "X-Tag", "X-Pgherald-Key", "Content-Type",
    ]  # fmt: skip
    assert not [value for value in parsed.values() if value.defects]
    assert [address.addr_spec for address in parsed["From"].addresses] == ["no-reply@example.org"]
    assert parsed["To"] == "jane@example.org"
    assert 1 <= len(parsed["Reply-To"].addresses) <= 4
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", message.octets)
    assert max(map(len, message.octets.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 998
