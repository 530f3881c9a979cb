"""The bytes of a message: its headers and its parts. The same input always gives the same bytes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from listener.address import Address, Mailbox
from listener.errors import BadData
from listener.mail.body import multipart, part
from listener.mail.headers import date_time, folded, list_unsubscribe, one_line, originators, unstructured
from listener.message_id import header_value
from listener.transport.base import MAX_MESSAGE_BYTES

# Mail programs show about 80 characters of a subject. A row could contain a megabyte.
MAX_SUBJECT_CHARS = 200

_MESSAGE_ID = re.compile(r"[a-z0-9.-]{1,64}")
# RFC 3834 5, and the header that Exchange reads. Not "All", which would also suppress reports of failed deliveries.
_AUTOMATIC = (
    ("Auto-Submitted", "auto-generated"),
    ("X-Auto-Response-Suppress", "OOF, AutoReply, RN, NRN"),
)


@dataclass(frozen=True, slots=True)
class Content:
    """The words of a message, not encoded yet. `html` is None for a message that has only text."""

    subject: str
    text: str
    html: str | None
    calendar: str | None = None
    """the calendar with the message's entry (RFC 5545)"""
    calendar_fault: str | None = None
    """why the message has no entry, although its row has a start; nothing of the row is quoted"""


@dataclass(frozen=True, slots=True)
class MessageDefaults:
    """The headers that all messages of a rule share, encoded once."""

    sender: Mailbox
    idempotency_header: str = "X-Pgherald-Key"
    """the header that carries the message id, for providers that drop a second message with the same value"""
    reply_to: tuple[Mailbox, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """the operator's own headers, as `config.headers` has checked them"""
    _from: str = field(init=False, repr=False, compare=False)
    _reply_to: str = field(init=False, repr=False, compare=False)
    _rest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rest = ["MIME-Version: 1.0", *(folded(*header) for header in (*_AUTOMATIC, *self.headers.items()))]
        object.__setattr__(self, "_from", originators("From", self.sender))
        object.__setattr__(self, "_reply_to", originators("Reply-To", *self.reply_to))
        object.__setattr__(self, "_rest", "\r\n".join(rest))


def build(
    defaults: MessageDefaults,
    content: Content,
    recipient: Address,
    message_id: str,
    date: datetime,
    *,
    sender_name: str = "",
    reply_to: tuple[Mailbox, ...] = (),
    unsubscribe: Sequence[str] = (),
    original_recipient: Address | None = None,
) -> bytes:
    """Return the whole message (RFC 5322), ended by CRLF and not dot-stuffed.

    `date` is the time of the sending and not of the change. Some servers refuse an email whose Date is a week old, and
    SpamAssassin counts four hours against it. A second sending does not call this, because its bytes are stored.
    `sender_name` and `reply_to` replace the name and the mailboxes of `defaults`, unless they are empty.
    `unsubscribe` are the URLs of List-Unsubscribe. `original_recipient` is the owner of the row if `recipient` gets the message
    instead (``mail.redirect_to``).

    Raises:
        BadData: The content is larger than the limit (``too_large``).
        ValueError: Any other argument is invalid.
    """
    # Checked before the work as well. The text of one row may be gigabytes, and encoding never makes it much smaller.
    _check_size(len(content.text) + len(content.html or "") + 2 * len(content.calendar or ""))
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("the key may contain only [a-z0-9.-], and at most 64 characters")
    sender = defaults.sender
    lines = [
        originators("From", replace(sender, name=sender_name)) if sender_name else defaults._from,
        f"To: {recipient}",
        unstructured("Subject", one_line(content.subject)[:MAX_SUBJECT_CHARS]),
        f"Date: {date_time(date)}",
        f"Message-ID: {header_value(message_id, sender.address.domain)}",
        *([originators("Reply-To", *reply_to)] if reply_to else [defaults._reply_to] if defaults.reply_to else []),
        defaults._rest,
        f"{defaults.idempotency_header}: {message_id}",
        *list_unsubscribe(unsubscribe),
        *([] if original_recipient is None else [unstructured("X-Original-To", original_recipient.masked)]),
    ]
    head = "".join(f"{line}\r\n" for line in lines).encode()
    body = _body(content, message_id.encode("ascii"))
    _check_size(len(head) + len(body))
    return head + body


def _body(content: Content, boundary: bytes) -> bytes:
    parts = [part("text/plain", content.text)]
    if content.html is not None:
        parts.append(part("text/html", content.html))
    if content.calendar is None:
        return parts[0] if len(parts) == 1 else multipart(b"alternative", boundary, *parts)
    # Google's own invitations have this structure (docs/decisions.md). Gmail reads the alternative. Apple Mail and
    # Outlook open the attachment.
    parts.append(part("text/calendar; method=PUBLISH", content.calendar))
    file = part('application/ics; name="invite.ics"', content.calendar, "invite.ics")
    return multipart(b"mixed", b"m_" + boundary, multipart(b"alternative", boundary, *parts), file)


def _check_size(octets: int) -> None:
    if octets > MAX_MESSAGE_BYTES:
        raise BadData("too_large", f"the message has {octets} octets or more; at most {MAX_MESSAGE_BYTES} are sent")
