"""The page of preview: what a reader sees of a message, in light and dark, and nothing that runs."""

import dataclasses
import re
from datetime import UTC, datetime
from html import unescape

from listener.address import parse_address, parse_mailbox
from listener.mail.composer import Message
from listener.mail.message import Content, MessageDefaults, build
from listener.preview.page import headers, page, read

JANE = parse_address("jane@example.org")
DEFAULTS = MessageDefaults(parse_mailbox("no-reply@example.org"))
HTML = (
    '<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    "<style>:root { color-scheme: light dark } @media (prefers-color-scheme: dark) { p { color: #fff } }</style>"
    "</head><p>hello</p></html>\n"
)


def message(subject: str = "hello", text: str = "hello\n", html: str | None = HTML) -> Message:
    content = Content(subject, text, html)
    octets = build(DEFAULTS, content, JANE, "k" * 26, datetime(2026, 11, 22, tzinfo=UTC))
    return Message("k" * 26, JANE, content, octets)


def test_a_message_is_read_as_a_mail_program_reads_it() -> None:
    content = read(message("caf\u00e9\x1b[31m", "one\x9b\r\ntwo\n", None))
    assert content == Content("café[31m", "one\ntwo\n", None)
    assert read(message()).html == HTML


def test_the_headers_that_a_reader_sees() -> None:
    assert headers(message()) == [("From", "no-reply@example.org"), ("To", "jane@example.org"), ("Subject", "hello")]
    answered = dataclasses.replace(DEFAULTS, reply_to=(parse_mailbox("Ünal <a@example.org>"),))
    octets = build(answered, Content("hello", "", None), JANE, "k" * 26, datetime(2026, 11, 22, tzinfo=UTC))
    made = dataclasses.replace(message(), octets=octets, remarks=("from_name is left out: it is not text",))
    assert headers(made)[1] == ("Reply-To", "Ünal <a@example.org>")
    assert "from_name is left out: it is not text" in page("rule", "7", {"as sent": made})


def test_each_message_is_shown_in_light_and_dark_on_two_devices() -> None:
    shown = page("rule", "7", {"as sent": message()})
    frames = re.findall(r'title="([^"]*)" width="(\d+)" height="\d+" srcdoc="([^"]*)"', shown)
    assert [(title, width) for title, width, _ in frames] == [
        ("Desktop, light", "660"),
        ("Phone, light", "360"),
        ("Desktop, dark", "660"),
        ("Phone, dark", "360"),
    ]
    for title, _, source in frames:
        scheme = "dark" if title.endswith("dark") else "light"
        assert f"color-scheme: {scheme} " in unescape(source)
        assert ("@media (min-width: 0)" in unescape(source)) is (scheme == "dark")


def test_a_message_without_html_has_no_frames() -> None:
    shown = page("rule", "7", {"as sent": message(html=None)})
    assert "<iframe" not in shown
    assert '<pre class="text">hello\n</pre>' in shown


def test_headers_faults_and_size_are_named() -> None:
    made = message(subject="")
    shown = page("rule", "7", {"as sent": made})
    assert "<dt>To</dt><dd>jane@example.org</dd>" in shown
    assert f"<dt>Size</dt><dd>{len(made.octets)} bytes</dd>" in shown
    assert "<li>the subject is empty</li>" in shown
    assert "Content-Type" not in re.sub(r'<pre class="source">.*?</pre>', "", shown, flags=re.DOTALL)


def test_several_messages_have_their_names() -> None:
    shown = page("rule", "7", {"as sent": message(), "de": message("hallo")})
    assert re.findall(r"<h2>(.*?)</h2>", shown) == ["hello (as sent)", "hallo (de)"]


def test_nothing_of_a_message_runs_on_the_page() -> None:
    evil = '</pre></iframe><script>alert(1)</script>"'
    shown = page(evil, evil, {evil: message(evil, evil, f"<p>{evil}</p>")})
    assert "<script" not in shown
    assert "default-src 'none'" in shown


def test_a_calendar_entry_is_shown() -> None:
    calendar = "BEGIN:VCALENDAR\r\nSUMMARY:<b>\r\nEND:VCALENDAR\r\n"
    content = Content("hello", "hello\n", None, calendar)
    octets = build(DEFAULTS, content, JANE, "k" * 26, datetime(2026, 11, 22, tzinfo=UTC))
    made = Message("k" * 26, JANE, content, octets)
    assert read(made).calendar == calendar.replace("\r\n", "\n")
    shown = page("rule", "7", {"as sent": made})
    assert '<pre class="text calendar">BEGIN:VCALENDAR\nSUMMARY:&lt;b&gt;\nEND:VCALENDAR\n</pre>' in shown
