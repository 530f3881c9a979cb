"""Reports as mail servers really write them, and mails that are none."""

import time

import pytest

from listener.bounces.dsn import read_report
from listener.bounces.report import BadReport, BounceClass, Report
from tests.support.reports import KEY, arf, dsn, exim, qmail

SOFT, HARD, COMPLAINT = BounceClass


def read(raw: bytes) -> Report:
    report = read_report(raw)
    assert isinstance(report, Report), report
    return report


@pytest.mark.parametrize(
    ("status", "diagnostic", "kind"),
    [
        # Postfix: a remote server's refusal, its own tables, a domain that does not exist, a name server that fails.
        ("5.1.1", "smtp; 550 5.1.1 <gone@example.org>: Recipient address rejected: User unknown", HARD),
        ("5.1.1", 'x-unix; unknown user: "gone"', HARD),
        ("5.0.0", "smtp; 550 no such user here", HARD),
        ("5.4.4", "X-Postfix; Host or domain name not found. Name service error for name=a.example type=A: Host not found", HARD),
        ("4.4.3", "X-Postfix; Host or domain name not found. Name service error for name=a.example type=MX: Host not found, try again", SOFT),
        ("4.4.1", "X-Postfix; connect to mx.example.org[192.0.2.1]:25: Connection timed out", SOFT),
        ("5.2.2", "smtp; 552 5.2.2 <gone@example.org>: Mailbox full", SOFT),
        ("4.2.2", "smtp; 452 4.2.2 The email account that you tried to reach is over quota", SOFT),
        ("5.7.1", "smtp; 554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", SOFT),
        ("5.3.0", "smtp; 554 5.3.0 rejected by the filter", SOFT),
        ("5.2.1", "smtp; 550 5.2.1 The email account that you tried to reach is disabled", HARD),
        # The sender's own fault, although the code is about an address.
        ("5.1.8", "smtp; 553 5.1.8 Sender address rejected: Domain not found", SOFT),
        ("5.1.1", "smtp; 550 5.1.1 Sender address does not exist", SOFT),
        # Exchange Online
        ("5.1.10", "smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient gone@example.org not found by SMTP address lookup", HARD),
        ("5.7.133", "smtp;550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required", SOFT),
        ("5.2.2", "smtp;554 5.2.2 STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded", SOFT),
        # Gmail
        ("5.1.1", "smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try\n 550-5.1.1 double-checking the recipient's email address", HARD),
        ("4.0.0", "smtp; DNS Error: DNS type 'mx' lookup of a.example responded with code NXDOMAIN Domain name not found: a.example", HARD),
        # Exim
        ("5.0.0", "smtp; 550 5.1.1 <gone@example.org> User doesn't exist", HARD),
        ("5.0.0", "", SOFT),
        ("", "smtp; 421 4.3.2 closing", SOFT),
    ],
)  # fmt: skip
def test_the_class_of_a_failure(status: str, diagnostic: str, kind: BounceClass) -> None:
    report = read(dsn(status=status, diagnostic=diagnostic))
    assert (report.kind, KEY in report.message) == (kind, True)
    assert "gone@" not in report.detail


def test_the_detail_is_what_the_server_said_with_its_addresses_masked() -> None:
    report = read(dsn(diagnostic="smtp; 550 5.1.1 <gone@example.org>: gone is unknown"))
    assert report.detail == "550 5.1.1 <g***@example.org>: g*** is unknown"
    assert read(dsn(diagnostic="", status="5.1.1 (bad mailbox)")).detail == "5.1.1 (bad mailbox)"


@pytest.mark.parametrize(
    "changes",
    [
        {"envelope_id": KEY},
        {"envelope_id": f"+{ord(KEY[0]):X}{KEY[1:]}"},
        {"returned": "message/rfc822"},
        {"returned": "text/rfc822-headers"},
        {"returned": "message/global-headers", "kind": "message/global-delivery-status"},
        {"returned": "message/rfc822", "container": "multipart/mixed"},
        {"quoted": True},
        {"returned": "message/rfc822", "line_end": "\r\n"},
        {"returned": "message/rfc822", "forwarded": True},
        {"returned": "message/rfc822", "encoding": "base64"},
    ],
)
def test_the_message_is_named_by_its_envelope_or_by_what_is_returned(changes: dict[str, str]) -> None:
    report = read(dsn(**{"envelope_id": "", "returned": "", **changes}))  # type: ignore[arg-type]
    assert KEY in report.message
    assert report.kind == HARD


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded (to several)"])
def test_an_action_that_is_no_failure_changes_nothing(action: str) -> None:
    line = read_report(dsn(action=action, status="2.0.0"))
    assert isinstance(line, str)
    assert line.startswith(f"the mail server reports {action.split()[0]}, and no failure")


def test_an_address_that_stands_for_several_works_if_one_of_them_does() -> None:
    other = "Final-Recipient: rfc822; b@example.org\nAction: {}\nStatus: {}\n"
    assert read(dsn(more=other.format("delivered", "2.0.0"))).kind == SOFT
    assert read(dsn(more=other.format("failed", "4.2.2"))).kind == HARD


@pytest.mark.parametrize(
    ("raw", "kind", "detail"),
    [
        (exim("host mx.example.org [192.0.2.1]: 550 5.1.1 <gone@example.org>: User unknown"), HARD, "550 5.1.1"),
        (exim("Unrouteable address"), HARD, "Unrouteable address"),
        (exim("retry timeout exceeded"), SOFT, "retry timeout exceeded"),
        (qmail("Sorry, no mailbox here by that name. (#5.1.1)"), HARD, "Sorry, no mailbox here"),
        (qmail("192.0.2.1 does not like recipient.\nRemote host said: 552 mailbox full"), SOFT, "552 mailbox full"),
    ],
)
def test_bounces_as_plain_text(raw: bytes, kind: BounceClass, detail: str) -> None:
    report = read(raw)
    assert (report.kind, KEY in report.message) == (kind, True)
    assert detail in report.detail
    assert "gone@" not in report.detail


def test_a_complaint() -> None:
    report = read(arf())
    assert (report.kind, report.detail) == (COMPLAINT, "abuse, reported by Yahoo!-Mail-Feedback/2.0")
    assert KEY in report.message


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (arf("not-spam"), "no complaint"),
        (arf("auth-failure"), "no complaint"),
        (b"Auto-Submitted: auto-replied\nSubject: away\n\nI am away.\n", "automatic reply"),
        (b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b--\n", "receipt"),
    ],
)
def test_a_mail_that_needs_no_action(raw: bytes, words: str) -> None:
    line = read_report(raw)
    assert isinstance(line, str)
    assert words in line


def nested(kind: str, levels: int) -> bytes:
    if kind == "message":
        return b"Content-Type: message/rfc822\n\n" * levels
    opened = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(levels))
    return opened + b"x\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"From: jane@example.org\nSubject: Hello\n\nHow are you?\n",
        dsn()[:350],
        dsn(status="", action="", recipient=""),
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b--\n",
        b"Content-Type: multipart/report\n\nno boundary\n",
        b"Content-Type: message/feedback-report\n\nVersion: 1\n",
        nested("message", 30_000),
        nested("multipart", 20_000),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 100_000,
        b'Content-Type: multipart/mixed; boundary="' + b';"' * 500_000,
        b"Subject: " + b"x\n " * 300_000,
        b"x: y\n" * 200_000,
        b"Content-Type: message/delivery-status\n\n" + b"Reporting-MTA: x\n\n" * 50_000,
        b"X-Failed-Recipients: a@b\n\n" + b"\n" * 1_000_000,
        b"\n" + b"<>:\n" * 250_000 + b"--- Below this line is not a copy",
        b"Content-Type: text/plain; charset=utf-7\nContent-Transfer-Encoding: x-uuencode\n\n\xff\xfe begin 644 x\n",
        b"Content-Type: multipart/report; boundary*0*=utf-99''%ff%00; boundary*1=b\n\n--b\n\n",
        bytes(range(256)) * 4000,
    ],
    ids=range(20),
)
def test_a_mail_that_is_no_report_or_a_hostile_one(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(BadReport) as refused:
        read_report(raw)
    assert time.process_time() - began < 5
    assert "\n" not in str(refused.value)


def test_only_the_first_megabyte_counts() -> None:
    raw = dsn(returned="message/rfc822", body="x" * 3_000_000)
    assert KEY in read(raw).message
    late = raw.replace(b"This is the mail system", b"x" * 1_100_000)
    with pytest.raises(BadReport):
        read_report(late)
    assert KEY in read(late.replace(b"x" * 200_000, b"")).message


def test_a_report_in_the_returned_message_does_not_count() -> None:
    inner = dsn(status="4.2.2", diagnostic="smtp; 452 4.2.2 full").decode()
    assert read(dsn(returned="message/rfc822", body=inner)).kind == HARD
