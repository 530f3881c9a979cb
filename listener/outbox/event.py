"""An event in a worker's hands, what is to be written about it, and the bytes of its message as a mark keeps them."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from listener.errors import BadData
from listener.limits import MAX_MESSAGE_BYTES

_STORED_BELOW = 1000

State = Literal["available", "in_doubt", "sent", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Event:
    """A claimed event. `claim` is its fence: whatever is written about it names it.

    `kept`: the outbox has the message of a first sending, which is in doubt. `flaw`: the reason and the detail with which
    it fails, because it cannot be read; its key is then only shown.
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
    traceparent: str | None = None
    flaw: tuple[str, str] | None = None

    @property
    def fence(self) -> tuple[int, int]:
        return self.id, self.claim


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be written about an event. `delay` in seconds, for `available` and `in_doubt`."""

    event: Event
    state: State
    history_entry: str | None = None
    reason: str | None = None
    detail: str | None = None
    uses_attempt: bool = False
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """The intent to send these bytes to this recipient, written before the final dot can be."""

    event: Event
    recipient: str
    message: bytes


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """What a mark has kept: the recipient and the message of a sending that came into doubt."""

    recipient: str
    message: bytes


def decompress(stored: bytes) -> bytes:
    """The message of a mark. Raises `BadData` where it is damaged, or larger than any that is sent."""
    unpacker = zlib.decompressobj()
    try:
        message = unpacker.decompress(stored, MAX_MESSAGE_BYTES + 1)
    except zlib.error as exc:
        raise BadData("unreadable", f"the message that was kept is damaged ({exc})") from exc
    if len(message) > MAX_MESSAGE_BYTES:
        raise BadData("too_large", f"the message that was kept has more than {MAX_MESSAGE_BYTES} octets")
    if not unpacker.eof:
        raise BadData("unreadable", "the message that was kept is damaged (it ends too early)")
    return message


def compress(message: bytes) -> bytes:
    """A zlib stream (RFC 1950), in which what is short stands as it is (RFC 1951 3.2.4): packing it takes longer than it saves."""
    size = len(message)
    if size < _STORED_BELOW:
        header = b"\x78\x01\x01" + size.to_bytes(2, "little") + (0xFFFF - size).to_bytes(2, "little")
        return header + message + zlib.adler32(message).to_bytes(4, "big")
    # With a window of 8 KB and little memory: a mail is no longer than a few, and the usual 256 KB cost more than all else.
    packer = zlib.compressobj(1, wbits=13, memLevel=6)
    return packer.compress(message) + packer.flush()
