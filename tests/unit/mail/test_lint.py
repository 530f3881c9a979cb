"""lint: every fault of a finished message, one at a time, in words; and the shipped mails have none."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from listener.address import parse_address, parse_mailbox
from listener.mail.composer import Message
from listener.mail.lint import MAX_HTML_BYTES, _lacking, lint
from listener.mail.message import Content, MessageDefaults, build
from listener.mail.templates import Templates
from tools.caniemail import FEATURES

JANE = parse_address("jane@example.org")
HEAD = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
EXAMPLES = Path(__file__).parents[3] / "examples" / "templates"
LINK = "https://app.example.org/dateplans/7"


def message(content: Content) -> Message:
    octets = build(
        MessageDefaults(parse_mailbox("no-reply@example.org")),
        content,
        JANE,
        "k" * 26,
        datetime(2026, 11, 22, tzinfo=UTC),
    )
    return Message("k" * 26, JANE, content, octets)


def remarks(html: str | None = HEAD, text: str = f"hello {LINK}\n", subject: str = "hello") -> list[str]:
    return lint(message(Content(subject, text, html)))


def test_a_translation_with_the_english_footer(tmp_path: Path) -> None:
    """The layouts' footer is what a translator does not see."""
    folder = tmp_path / "notice" / "de"
    folder.mkdir(parents=True)
    for kind in ("txt", "html"):
        page = f'{{% extends "_layout.{kind}.j2" %}}{{% block message %}}{{{{ place }}}}{{% endblock %}}'
        for place in (folder, folder.parent):
            (place / f"body.{kind}.j2").write_text(page)
            (place / "subject.txt.j2").write_text("Hallo")
    footer = "{% block footer %}Sie wollten das.{% endblock %}"

    def seen(language: str) -> list[str]:
        templates = Templates(["notice"], tmp_path)
        return lint(message(templates.render("notice", {"place": "Café", "language": language, "link": "", "unsubscribe": ""})))  # fmt: skip

    english = ["the footer is English in an email in de: write the block footer, in the text part too"]
    assert seen("en") == []
    assert seen("de") == english
    with (folder / "body.html.j2").open("a") as file:
        file.write(footer)
    assert seen("de") == english, "the text part has it"
    with (folder / "body.txt.j2").open("a") as file:
        file.write(footer)
    assert seen("de") == []


@pytest.mark.parametrize("language", ["", "de", "ar"])
def test_the_shipped_mail_has_nothing_to_remark(language: str) -> None:
    context = {"place": "Café", "language": language, "link": LINK, "unsubscribe": "https://mail.example.org/u/x"}
    templates = Templates(["dateplan_verified"], EXAMPLES)
    assert lint(message(templates.render("dateplan_verified", context))) == []


def test_nor_has_that_of_send_test() -> None:
    context = dict.fromkeys(("sender", "host", "where", "at", "version"), "x")
    assert lint(message(Templates(["send_test"]).render("send_test", context))) == []


def test_nor_has_a_text_mail() -> None:
    assert remarks(None) == remarks() == []


@pytest.mark.parametrize(
    ("html", "told"),
    [
        ("<html><meta charset=utf-8>", "<html> has no lang"),
        ('<html lang=""><meta charset=utf-8>', "<html> has no lang"),
        ('<html lang="en">', "charset"),
        ('<html lang="en"><meta charset="latin-1">', "charset"),
        (f"{HEAD}<table><tr><td><table role=presentation>", "1 of the tables lack role"),
        (f"{HEAD}<img src='https://x.example/a.png'>", "1 of the images lack alt"),
        (f"{HEAD}<a href='/dateplans/7'>", "the link '/dateplans/7' is not a full URL"),
        (f"{HEAD}<a href='javascript:alert(1)'>", "is not a full URL"),
        (f"{HEAD}<a href='https://[x/'>", "the link 'https://[x/' is not a full URL"),
        (f"{HEAD}<img src='https://[x/a.png'>", "1 of the images lack alt"),
        (f"{HEAD}<a href='{LINK}/more'>", "is missing from the text part"),
        (f"{HEAD}{'x' * MAX_HTML_BYTES}", "Gmail cuts it"),
        (f"{HEAD}<video src='https://x.example/a.mp4'>", "video: Gmail, Outlook on Windows"),
        (f"{HEAD}<form>", "form: "),
        (f"{HEAD}<input>", "input text: "),
        (f"{HEAD}<svg>", "svg: "),
        (f"{HEAD}<p popover>", "popover: "),
        (f"{HEAD}<link rel=stylesheet href=x.css>", "link: Gmail"),
        (f"{HEAD}<img alt='' srcset='x'>", "srcset: "),
        (f"{HEAD}<img alt='' src='data:image/png;base64,AA'>", "base64: Gmail"),
        (f"{HEAD}<img alt='' src='https://x.example/a.SVG?b'>", "svg: Gmail"),
        (f"{HEAD}<div style='display:flex'>", "display flex: Outlook on Windows"),
        (f"{HEAD}<div style='DISPLAY : inline-grid !important'>", "display grid: "),
        (f"{HEAD}<div style='position:absolute'>", "position: Gmail"),
        (f"{HEAD}<div style='top:0'>", "left right top bottom: "),
        (f"{HEAD}<div style='background:url(x)'>", "background image: "),
        (f"{HEAD}<div style='background:linear-gradient(red, blue)'>", "linear gradient: "),
        (f"{HEAD}<div style='color:var(--red)'>", "variables: "),
        (f"{HEAD}<div style='width:calc(100% - 1px)'>", "unit calc: "),
        (f"{HEAD}<div style='width:50vw'>", "unit vw: "),
        (f"{HEAD}<style>.a {{ float: left }}</style>", "float: Outlook on Windows"),
        (f"{HEAD}<style>@import 'x.css';</style>", "at import: "),
        (f"{HEAD}<style>p::after {{ content: 'x' }}</style>", "pseudo element after: "),
    ],
)  # fmt: skip
def test_a_fault_of_the_page(html: str, told: str) -> None:
    [remark] = remarks(html)
    assert told in remark


@pytest.mark.parametrize(
    "html",
    [
        f"{HEAD}<a href='{LINK}'><a href='mailto:help@example.org'>",
        f"{HEAD}<img alt='' src='https://x.example/a.png'>",
        f"{HEAD}<div style='position:static; float:none; width:100%; max-width:600px; border-radius:4px'>",
        f"{HEAD}<style>@media (max-width: 480px) {{ .a {{ position: absolute }} .b {{ float: left }} }}</style>",
        f"{HEAD}<style>/* display: flex */ .a {{ color: red }}</style>",
        f"{HEAD}<p>position: absolute; display: flex</p>",
        f"{HEAD}<body link='#ff0000' vlink='#ff0000'>",
    ],
)
def test_what_is_no_fault(html: str) -> None:
    assert remarks(html) == []


@pytest.mark.parametrize(
    ("subject", "text", "told"),
    [
        ("", "hello\n", "the subject is empty"),
        ("x" * 79, "hello\n", "the subject has 79 characters"),
        ("hello", "\n", "the text part is empty"),
    ],
)
def test_a_fault_of_subject_or_text(subject: str, text: str, told: str) -> None:
    [remark] = remarks(None, text, subject)
    assert told in remark


@pytest.mark.parametrize(
    ("octets", "told"),
    [
        (b"Subject: " + b"x" * 990 + b"\r\n\r\nhello\r\n", "a line of the header has 999 octets"),
        (b"Subject: x\r\n\r\n" + b"x" * 77 + b"\r\n", "a line of the body has 77 octets"),
    ],
)
def test_a_line_that_is_too_long(octets: bytes, told: str) -> None:
    [remark] = lint(dataclasses.replace(message(Content("x", "x", None)), octets=octets))
    assert told in remark


def test_the_table_was_made_of_the_features_named() -> None:
    assert set(_lacking()) <= set(FEATURES)
    assert len(_lacking()) > 40
    assert all(_lacking().values())
