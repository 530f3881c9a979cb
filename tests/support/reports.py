"""Mails that report on another one, as mail servers write them."""

import base64

# A key as Message-IDs have it. Tests of the outbox give another one.
KEY = "3ebqgcaxgzk6rhfw3qteqncekm"


def _original(key: str, body: str = "Your plan is ready.") -> str:
    return (
        f"Received: from herald.example.com\nFrom: no-reply@example.com\nTo: gone@example.org\nSubject: A plan\n"
        f"Message-ID:\n <{key}@example.com>\nReferences: <other@example.com>\n\n{body}\n"
    )


def dsn(
    *, key: str = KEY, action: str = "failed", status: str = "5.1.1", diagnostic: str = "smtp; 550 5.1.1 no such user",
    recipient: str = "gone@example.org", more: str = "", envelope_id: str | None = None, returned: str = "message/rfc822",
    kind: str = "message/delivery-status", container: str = "multipart/report", quoted: bool = False, line_end: str = "\n",
    forwarded: bool = False, encoding: str = "", body: str = "Your plan is ready.",
) -> bytes:  # fmt: skip
    """A delivery status notification (RFC 3464 appendix, with the fields of Postfix)."""
    fields = [
        ("Final-Recipient", f"rfc822; {recipient}" if recipient else ""),
        ("Action", action),
        ("Status", status),
        ("Remote-MTA", "dns; mx.example.org" if recipient else ""),
        ("Diagnostic-Code", diagnostic if recipient else ""),
    ]
    about = [
        ("Reporting-MTA", "dns; relay.example.com"),
        ("Original-Envelope-Id", key if envelope_id is None else envelope_id),
    ]
    blocks = ["".join(f"{name}: {value}\n" for name, value in block if value) for block in (about, fields)]
    status_text = "\n".join([*blocks, more]) if more else "\n".join(blocks)
    if encoding:
        status_text = base64.encodebytes(status_text.encode()).decode()
    text = "This is the mail system at host relay.example.com.\n"
    if quoted:
        text += f"\nOriginal message headers:\n\nSubject: A plan\nMessage-ID: <{key}@example.com>\n"
    parts = [("text/plain", text), (kind, status_text)]
    if returned:
        parts.append((returned, _original(key, body)))
    mail = (
        "From: MAILER-DAEMON@relay.example.com (Mail Delivery System)\nSubject: Undelivered Mail Returned to Sender\n"
        f'Auto-Submitted: auto-replied\nMIME-Version: 1.0\nContent-Type: {container};\n\tboundary="B1/relay"\n\n'
        "This is a MIME-encapsulated message.\n\n"
    )
    for part, content in parts:
        how = f"Content-Transfer-Encoding: {encoding}\n" if encoding and part == kind else ""
        mail += f"--B1/relay\nContent-Type: {part}\n{how}\n{content}\n"
    mail += "--B1/relay--\n"
    if forwarded:
        mail = (
            "From: rule@example.com\nSubject: FW\nContent-Type: multipart/mixed; boundary=outer\n\n"
            f"--outer\nContent-Type: text/plain\n\nForwarded by a rule.\n--outer\nContent-Type: message/rfc822\n\n{mail}\n--outer--\n"
        )
    return mail.replace("\n", line_end).encode()


def arf(kind: str = "abuse", key: str = KEY) -> bytes:
    """A complaint in the Abuse Reporting Format (RFC 5965 appendix B)."""
    return (
        "From: <feedback@provider.example>\nSubject: FW: A plan\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="part1"\n\n'
        "--part1\nContent-Type: text/plain\n\nThis is an email abuse report.\n\n"
        f"--part1\nContent-Type: message/feedback-report\n\nFeedback-Type: {kind}\n"
        "User-Agent: Yahoo!-Mail-Feedback/2.0\nVersion: 1\nOriginal-Mail-From: <no-reply@example.com>\n\n"
        f"--part1\nContent-Type: message/rfc822\nContent-Disposition: inline\n\n{_original(key)}\n--part1--\n"
    ).encode()


def exim(words: str, key: str = KEY) -> bytes:
    """A bounce of Exim before version 4.83, which is no report of RFC 3464."""
    return (
        "X-Failed-Recipients: gone@example.org\nAuto-Submitted: auto-replied\n"
        "From: Mail Delivery System <Mailer-Daemon@relay.example.com>\n"
        "Subject: Mail delivery failed: returning message to sender\n\n"
        "This message was created automatically by mail delivery software.\n\n"
        "A message that you sent could not be delivered to one or more of its\n"
        "recipients. This is a permanent error. The following address(es) failed:\n\n"
        f"  gone@example.org\n    {words}\n\n"
        f"------ This is a copy of the message, including all the headers. ------\n\n{_original(key)}"
    ).encode()


def qmail(words: str, key: str = KEY) -> bytes:
    """A bounce of qmail: https://cr.yp.to/proto/qsbmf.txt."""
    return (
        "From: MAILER-DAEMON@relay.example.com\nSubject: failure notice\n\n"
        "Hi. This is the qmail-send program at relay.example.com.\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\n\n"
        f"<gone@example.org>:\n{words}\n\n--- Below this line is a copy of the message.\n\n{_original(key)}"
    ).encode()
