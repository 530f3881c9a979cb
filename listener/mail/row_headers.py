"""The headers that a row decides: the name in From (column `from_name`) and Reply-To (column `reply_to`).

Both come from people. A bad value is left out, and the message has the configured one: its reader should get it all the
same. A name that looks like an address is bad, because many mail programs show the name alone (RFC 7489 12.4).
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from listener.address import Mailbox, parse_address, parse_mailbox
from listener.errors import BadData
from listener.mail.headers import one_line
from listener.printable import without_invisible
from listener.recipients import RecipientPolicy

# A longer name hides the address beside it, or is cut. Names of authorities and firms have up to about 80 characters.
_MAX_NAME_CHARS = 100
# Before invisible characters and runs of white space are removed. The value of a row may be a megabyte.
_MAX_TEXT_CHARS = 10 * _MAX_NAME_CHARS
_MAX_MAILBOXES = 10
_OF_ADDRESS = re.compile("[@<>]")


@dataclass(frozen=True, slots=True)
class RowHeaders:
    """The name in From and the mailboxes of Reply-To. Where one is empty, the configured one applies."""

    from_name: str = ""
    reply_to: tuple[Mailbox, ...] = ()
    remarks: tuple[str, ...] = ()
    """one sentence for each column that is left out, without its value"""


_CONFIGURED = RowHeaders()


def row_headers(row: Mapping[str, Any], recipients: RecipientPolicy) -> RowHeaders:
    """Return the headers that a row of the lookup decides.

    Addresses that may get no email by `recipients` are not in Reply-To: on a staging system, an answer would reach a real
    person.
    """
    from_name, reply_to = row.get("from_name"), row.get("reply_to")
    if from_name is None and reply_to is None:
        return _CONFIGURED
    name, remarks = "", list[str]()
    mailboxes: tuple[Mailbox, ...] = ()
    try:
        name = _name(from_name)
    except ValueError as error:
        remarks.append(f"from_name is left out: {error}")
    try:
        mailboxes = _mailboxes(reply_to)
    except (ValueError, BadData) as error:
        remarks.append(f"reply_to is left out: {error}")
    allowed = tuple(mailbox for mailbox in mailboxes if recipients.may_be_answered(mailbox.address))
    return RowHeaders(name, allowed, tuple(remarks))


def _name(value: object) -> str:
    """Return a display name on one line, without characters that are invisible or change the direction of writing.

    Raises:
        ValueError: The name looks like an address, or is too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("it is not text; cast it in the lookup")
    name = one_line(without_invisible(value[: _MAX_TEXT_CHARS + 1]))
    if len(value) > _MAX_TEXT_CHARS or len(name) > _MAX_NAME_CHARS:
        raise ValueError(f"it has more than {_MAX_NAME_CHARS} characters; shorten it")
    # In full width the signs look the same.
    if _OF_ADDRESS.search(unicodedata.normalize("NFKC", name)):
        raise ValueError("it has an @, < or >, and could be taken for the sender's address; return a name alone")
    return name


def _mailboxes(value: object) -> tuple[Mailbox, ...]:
    """Return the mailboxes of a text with one, or of an array of such texts.

    Raises:
        ValueError, BadData: One of them is invalid.
    """
    given = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
    texts = [text for text in given if isinstance(text, str)]
    if texts != given:
        raise ValueError("it is neither text nor an array of texts; cast it in the lookup")
    if len(texts) > _MAX_MAILBOXES:
        raise ValueError(f"it has {len(texts)} addresses; at most {_MAX_MAILBOXES} are allowed")
    return tuple(_mailbox(text) for text in texts if text.strip())


# Many rows have the same few. A text that is too long raises, and so is not kept.
@lru_cache(maxsize=256)
def _mailbox(text: str) -> Mailbox:
    address = parse_address(text)
    if address.needs_smtputf8:
        raise ValueError("the address has a character before the @ that is not ASCII; not every server takes it")
    try:
        return Mailbox(_name(parse_mailbox(text).name), address)
    except ValueError:
        return Mailbox("", address)
