"""The records of a claimed event: the event, its outgoing message, its outcome; and the stored form of a message."""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from listener.address import Address
from listener.errors import BadData
from listener.transport.base import MAX_MESSAGE_BYTES

# Packing a shorter message takes longer than writing the bytes that it would save.
_UNPACKED_BELOW_BYTES = 1000

# The states that an outcome can have. `claimed` and `transmitting` are written by a claim and a mark.
State = Literal["available", "in_doubt", "sent", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Why a rule with `again_after` does not send an event now.

    Attributes:
        sent_at: When the row's last email was sent, if that is not long ago. The event is skipped.
        wait: Otherwise another event of the row is in flight or in doubt. Seconds until this one asks again.
        is_held: That event waits for a person.
    """

    sent_at: datetime | None
    wait: float = 0.0
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A claimed event.

    Attributes:
        key: The primary key of the watched row, as text. With a `flaw` it is escaped for display.
        attempt: How many attempts it has used.
        in_doubt_count: How often it was unknown whether the server had taken the message.
        captured_at: When the row changed, by the server's clock.
        age: Seconds from then to the claim.
        claim: The number of this claim, unique in the database.
        has_stored_message: The outbox has the message of an earlier sending, which ended in doubt.
        deferred_at: When its first attempt was deferred, as ISO 8601; None: never.
        superseded_by: State of another event of the row whose lookup has seen this change, or will.
        person: Of a rule with `each`: whose event it is. None: it is to be spread to all people of the row.
        traceparent: The application's trace, if it set one (W3C Trace Context).
        message_id: The left part of its email's Message-ID, for the log. Empty until the event is decided.
        repeat: What keeps a rule with `again_after` from sending it.
        flaw: Reason and detail with which the event must fail, because it cannot be read.
    """

    id: int
    rule: str
    key: str
    attempt: int
    in_doubt_count: int
    captured_at: datetime
    age: float
    claim: int
    has_stored_message: bool
    superseded_by: str | None
    deferred_at: str | None = None
    traceparent: str | None = None
    person: str | None = None
    message_id: str = ""
    repeat: Repeat | None = None
    flaw: tuple[str, str] | None = None

    @property
    def deferred_for(self) -> float:
        """The seconds from the first attempt, if it was deferred, to the claim."""
        try:
            deferred_at = datetime.fromisoformat(self.deferred_at or "").astimezone(UTC)
        except (ValueError, OverflowError):
            # It was never deferred, or somebody has edited the history.
            return 0.0
        return self.age - (deferred_at - self.captured_at).total_seconds()

    @property
    def log_name(self) -> dict[str, str]:
        """The fields with which a log event names the person and the email, if they are known."""
        person = {"person": self.person} if self.person is not None else {}
        return {**person, "message_id": self.message_id} if self.message_id else person

    @property
    def row_name(self) -> str:
        """The name of the lookup's row for this event: its key, or its key and person."""
        return row_name(self.key, self.person)

    @property
    def fence(self) -> tuple[int, int]:
        """The pair that every write names. After another claim it matches no row."""
        return self.id, self.claim


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome that is to be written about an event.

    Attributes:
        state: The event's new state.
        history_entry: The word that its history gets. None: the history stays as it is.
        reason: A short fixed word, such as ``superseded``, for lists and metrics.
        detail: Text for people, with addresses masked.
        uses_attempt: Whether the outcome counts as one of the attempts.
        delay: Seconds until the event is due again, for the states `available` and `in_doubt`. None: at once, or for an
            event in doubt: never, because a person decides.
    """

    event: Event
    state: State
    history_entry: str | None = None
    reason: str | None = None
    detail: str | None = None
    uses_attempt: bool = False
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A composed message. Its recipient and bytes are the mark, and a second sending repeats them.

    `raw` is the message as sent (RFC 5322), and `message_id` the left part of the header Message-ID.
    """

    event: Event
    recipient: Address
    raw: bytes
    message_id: str


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """The recipient and the message of a sending that ended in doubt, as its mark stored them."""

    recipient: str
    message: bytes


def row_name(key: str, person: str | None) -> str:
    """Return the name of a row of a lookup. PostgreSQL's texts contain no NUL, so the names of two rows differ."""
    return key if person is None else f"{key}\0{person}"


def key_of(row: str) -> str:
    """Return the key in the name of a row."""
    return row.partition("\0")[0]


def decompress(stored: bytes) -> bytes:
    """Return the message that a mark stored.

    Raises:
        BadData: The stored bytes are damaged, or the message is larger than any that is sent.
    """
    unpacker = zlib.decompressobj()
    try:
        message = unpacker.decompress(stored, MAX_MESSAGE_BYTES + 1)
    except zlib.error as exc:
        raise BadData("unreadable", f"the stored message is damaged ({exc})") from exc
    if len(message) > MAX_MESSAGE_BYTES:
        raise BadData("too_large", f"the stored message has more than {MAX_MESSAGE_BYTES} octets")
    if not unpacker.eof:
        raise BadData("unreadable", "the stored message is damaged (it ends too early)")
    return message


def compress(message: bytes) -> bytes:
    """Return a zlib stream (RFC 1950). A short message is stored in it unpacked (RFC 1951, section 3.2.4)."""
    size = len(message)
    if size < _UNPACKED_BELOW_BYTES:
        header = b"\x78\x01\x01" + size.to_bytes(2, "little") + (0xFFFF - size).to_bytes(2, "little")
        return header + message + zlib.adler32(message).to_bytes(4, "big")
    # A window of 8 KB and little memory. Few messages are longer, and to allocate the usual 256 KB costs more than to
    # pack.
    packer = zlib.compressobj(1, wbits=13, memLevel=6)
    return packer.compress(message) + packer.flush()
