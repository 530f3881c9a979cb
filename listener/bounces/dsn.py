"""Read an email that reports on another one.

- A delivery status notification: RFC 3464, and RFC 6533 for internationalized addresses.
- A complaint in the Abuse Reporting Format: RFC 5965.
- A bounce of an older Exim: plain text, with the header X-Failed-Recipients and a copy of the message.
- A bounce of qmail: QSBMF, https://cr.yp.to/proto/qsbmf.txt.

Any of them may be hostile. `mime` bounds the work, and the patterns here run over bounded text or in linear time.
"""

import re
from dataclasses import replace
from email.message import Message

from listener.address import Address, mask, parse_address
from listener.bounces.mime import (
    COMPLAINT,
    MAX_BYTES,
    MESSAGES,
    Part,
    find_report,
    parse_headers,
    parse_part,
    text_of,
)
from listener.bounces.report import BadReport, BounceClass, Report
from listener.errors import BadData
from listener.smtp.replies import Phase, Reply
from listener.smtp.verdicts import classify

# A server's words are cut at 512 characters in the history. The reason stands at their beginning.
_MAX_TEXT_CHARS = 2000
# A message has one recipient, and an address that stands for many has some dozens.
_MAX_STATUS_CHARS = 64_000
_MAX_BLOCKS = 100
_RETURNED = (*MESSAGES, "message/rfc822-headers", "message/global-headers", "text/rfc822-headers")
_DELIVERED = ("delivered", "relayed", "expanded")
# RFC 5965 7.3, RFC 6591: a reader who takes a complaint back, and a report about DKIM, SPF or DMARC.
_NOT_COMPLAINTS = ("not-spam", "auth-failure", "dmarc")

_REPLY = re.compile(r"\b([45]\d\d)(?:[ -]#?|$)([45]\.\d{1,3}\.\d{1,3})?")
_STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
# qmail writes "Sorry, no mailbox here by that name. (#5.1.1)".
_QMAIL_STATUS = re.compile(r"#([45]\.\d{1,3}\.\d{1,3})")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
# A long identifier stands on the line after the name.
_MESSAGE_ID = re.compile(r"^[> \t]*message-id:\s{0,20}(\S{1,500})", re.IGNORECASE | re.MULTILINE)
# A domain that does not exist: 5.1.2, and 5.4.4 of Postfix. If a name server fails, Postfix writes the same as 4.4.3.
_NO_DOMAIN = re.compile(r"\bNXDOMAIN\b|\b(host|domain)( or domain)?( name)? not found\b", re.IGNORECASE)
_EXIM_COPY = re.compile(r"^-{4,} (This is a copy of|The body of|The header of)", re.MULTILINE)
_QMAIL_COPY = re.compile(r"^--- (Below this line is a copy of|Enclosed are the original headers)", re.MULTILINE)
# The server's words stand behind these lines.
_EXIM_BEGIN = re.compile(r"^[ \t]*The following address(?:\(es\)|es)? failed:", re.MULTILINE)
_QMAIL_BEGIN = re.compile(r"^<([^>\n]*)>:[ \t]*$", re.MULTILINE)


def read_report(raw: bytes) -> Report | str:
    """Return the report in an email, or one line about why the email needs no action.

    Such an email reports a delay or a delivery, or it is an automatic reply. Only its first megabyte is read.

    Raises:
        BadReport: The email is no report, or cannot be read.
    """
    whole = parse_part(raw[:MAX_BYTES])
    if (found := find_report(whole)) is not None:
        part, beside = found
        return _complaint(part, beside) if part.kind == COMPLAINT else _delivery(part, beside)
    headers, text = whole.headers, text_of(whole)
    if headers["X-Failed-Recipients"] is not None and (copy := _EXIM_COPY.search(text)):
        recipient = _field(headers, "X-Failed-Recipients").partition(",")[0]
        return _plain(text[: copy.start()], text[copy.end() :], _EXIM_BEGIN.search(text), recipient)
    if copy := _QMAIL_COPY.search(text):
        begin = _QMAIL_BEGIN.search(text)
        return _plain(text[: copy.start()], text[copy.end() :], begin, begin[1] if begin else "")
    if headers.get_param("report-type") == "disposition-notification":
        return "this email is a receipt, and reports no failure; nothing changed"
    is_automatic = _field(headers, "Auto-Submitted").lower() not in ("", "no") or headers["X-Autoreply"] is not None
    if is_automatic and whole.kind != "multipart/report":
        return "this email is an automatic reply, and no report; nothing changed"
    raise BadReport("this email is no report: it has neither a delivery status nor a complaint; nothing changed")


def _delivery(part: Part, beside: list[Part]) -> Report | str:
    """Read a delivery status: a block of fields about the message, then one for each recipient (RFC 3464 2.1)."""
    status = text_of(part)[:_MAX_STATUS_CHARS]
    blocks = [parse_headers(block.strip()) for block in re.split(r"\n[ \t]*\n", status, maxsplit=_MAX_BLOCKS)]
    recipients = [block for block in blocks if block["Final-Recipient"] or block["Action"] or block["Status"]]
    if not recipients:
        raise BadReport("the delivery status names no recipient, so it is incomplete; nothing changed")
    actions = [_action(block) for block in recipients]
    if "failed" not in actions:
        return f"the mail server reports {mask(', '.join(dict.fromkeys(actions)))}, and no failure; nothing changed"
    envelope_id = next(filter(None, (_field(block, "Original-Envelope-Id") for block in blocks)), "")
    message = _message(_XTEXT.sub(lambda octet: chr(int(octet[1], 16)), envelope_id), beside)
    found = [_failure(block, message) for block, action in zip(recipients, actions, strict=True) if action == "failed"]
    gravest = max(found, key=lambda report: report.kind.gravity)
    # The address stands for several. It works, because one of them has got the message.
    if any(action in _DELIVERED for action in actions):
        return replace(gravest, kind=BounceClass.soft)
    return gravest


def _action(block: Message) -> str:
    """Return the action (RFC 3464 2.3.3). Where it is missing, the class of the status tells it."""
    action = _field(block, "Action").partition("(")[0].strip().lower()
    return action or {"5": "failed", "2": "delivered"}.get(_field(block, "Status")[:1], "delayed")


def _failure(block: Message, message: str) -> Report:
    status = _STATUS.search(_field(block, "Status"))
    # A type stands before the server's words: "smtp; 550 …" (RFC 3464 2.3.6).
    diagnostic = re.sub(r"^[\w-]+ ?; ?", "", _field(block, "Diagnostic-Code"))[:_MAX_TEXT_CHARS]
    detail = diagnostic or _field(block, "Status")
    for name in ("Final-Recipient", "Original-Recipient"):
        detail = mask(detail, _address(_field(block, name).partition(";")[2]))
    return Report(message, _class(status[1] if status else "", diagnostic), detail)


def _complaint(part: Part, beside: list[Part]) -> Report | str:
    """Read a complaint (RFC 5965 3)."""
    fields = parse_headers(text_of(part).strip())
    kind = _field(fields, "Feedback-Type").lower()
    if not kind:
        raise BadReport("the complaint has no Feedback-Type, so it is incomplete; nothing changed")
    if kind in _NOT_COMPLAINTS:
        return f"this email is a report of type {mask(kind)}, and no complaint; nothing changed"
    reporter = _field(fields, "User-Agent") or _field(fields, "Reporting-MTA")
    detail = mask(f"{kind}, reported by {reporter}" if reporter else kind)
    return Report(_message(_field(fields, "Original-Envelope-Id"), beside), BounceClass.complaint, detail)


def _plain(text: str, copy: str, begin: re.Match[str] | None, recipient: str) -> Report:
    """Read a bounce as plain text: the server's words from `begin` on, and a copy of the message with its headers."""
    words = " ".join(text[begin.end() if begin else 0 :].split())[:_MAX_TEXT_CHARS]
    reply, status = _REPLY.search(words), _QMAIL_STATUS.search(words)
    kind = _class(status[1] if status else "", words[reply.start() :] if reply else words)
    return Report("\n".join(_MESSAGE_ID.findall(copy)), kind, mask(words, _address(recipient)))


def _message(envelope_id: str, beside: list[Part]) -> str:
    """Return the names of the reported message: its envelope id, then the Message-IDs in what is returned of it."""
    returned = [parse_headers(text_of(part).lstrip()) for part in beside if part.kind in _RETURNED]
    # A server that returns nothing may quote the headers in its text for administrators, as Exchange does.
    texts = [text_of(part) for part in beside if part.kind == "text/plain"]
    quoted = [name for text in texts for name in _MESSAGE_ID.findall(text)]
    return "\n".join([envelope_id, *(_field(headers, "Message-ID") for headers in returned), *quoted])


def _class(status: str, diagnostic: str) -> BounceClass:
    """Return the class of a failure from its status (RFC 3463) and the server's words.

    A hard bounce is a reply that fails an event as `bad_address` when the sending itself gets it. Any other is soft.
    """
    reply = _REPLY.match(diagnostic)
    # A server that reports the failure of another one may state X.0.0 itself, which says nothing.
    enhanced = (reply[2] if reply else None) or (status if not status.endswith(".0.0") else None) or None
    code = int(reply[1]) if reply else 450 if status.startswith("4") else 550
    if enhanced is not None and enhanced[0] != str(code)[0]:
        code = int(f"{enhanced[0]}50")
    words = diagnostic[reply.end() :] if reply else diagnostic
    verdict = classify(Phase.rcpt, Reply(code, enhanced, words), reused=False)
    # Words without a reply are the reporting server's own. In another server's reply a domain may be that of the sender.
    has_no_domain = reply is None and not (enhanced or "").startswith("4") and _NO_DOMAIN.search(words) is not None
    return BounceClass.hard if verdict.reason == "bad_address" or has_no_domain else BounceClass.soft


def _field(headers: Message, name: str) -> str:
    return " ".join(str(headers[name] or "").split())


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except BadData:
        return None
