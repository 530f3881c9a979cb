"""The key in an email's Message-ID: made of the event that the email belongs to, and read back to it.

The key is one block of 128 bits, enciphered under the database's secret::

    id of the event, 64 bits | MAC of its rule and time of capture, 32 bits | zeros, 32 bits

After a database was restored, an id may be given a second time. The MAC tells the two events apart. The zeros show that
a key is ours: an altered key has them once in four billion. This is encode-then-encipher (Bellare and Rogaway,
"Encode-Then-Encipher Encryption", ASIACRYPT 2000).

The cipher is a balanced Feistel network with keyed BLAKE2s (RFC 7693) as its round function. Four rounds make a strong
pseudorandom permutation (Luby and Rackoff, SIAM Journal on Computing 17, 1988). Six remain one for as many events as a
bigint can count (Patarin, "Security of Random Feistel Schemes with 5 or More Rounds", CRYPTO 2004).
"""

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2s, sha256

_HALF_BYTES = 8
_ROUNDS = 6
_MAC_BYTES = 4
_ZEROS = bytes(4)
# A key as part of a longer text, such as a line of a mail server's log. A < before it may be written as %3C, or as \u003c
# in JSON.
_KEY = re.compile(r"(?:(?<![a-z0-9])|(?<=[%=+]3c)|(?<=u003c))[a-z2-7]{26}(?![a-z0-9])")


# An event's key is asked for twice: for its email, and for its lines in the log.
@lru_cache(maxsize=1024)
def make_message_id(secret: bytes, rule: str, event_id: int, captured_at: datetime) -> str:
    """Return the name by which other systems know the event: 26 characters of ``[a-z2-7]``.

    It is always the same for the same event, and reveals nothing without `secret`. It contains no colon, because Gmail
    refuses a Message-ID with one.

    Raises:
        ValueError: `captured_at` has no time zone.
    """
    if captured_at.tzinfo is None:
        raise ValueError("the time of capture has no time zone")
    mac, *rounds = _hashes(secret)
    captured = f"{rule}\0{captured_at.astimezone(UTC).isoformat(timespec='microseconds')}"
    block = event_id.to_bytes(_HALF_BYTES, "big", signed=True) + _digest(mac, captured.encode()) + _ZEROS
    return _text(_feistel(rounds, block))


def read_message_id(secret: bytes, text: str) -> tuple[str, int] | None:
    """Return the first key of ours in `text`, and the id of its event. Return None if no key in it is ours.

    The text may be the key, a whole Message-ID, or a line of a log that contains one. Case and blanks don't matter. The
    event may not exist any more, and its id may belong to another one: compare with `make_message_id`.
    """
    (_, *rounds), text = _hashes(secret), text.lower()
    for key in [*_KEY.findall(text), *_KEY.findall("".join(text.split()))]:
        try:
            block = base64.b32decode(f"{key.upper()}======")
        except binascii.Error:
            continue
        # 26 characters have two bits more than a block. They must be zero as well.
        if _text(block) != key:
            continue
        plain = _swap(_feistel(rounds[::-1], _swap(block)))
        if plain.endswith(_ZEROS):
            return key, int.from_bytes(plain[:_HALF_BYTES], "big", signed=True)
    return None


def header_value(key: str, domain: str) -> str:
    """Return the whole Message-ID as the header has it (RFC 5322 3.6.4)."""
    return f"<{key}@{domain}>"


@lru_cache(maxsize=8)
def _hashes(secret: bytes) -> tuple[blake2s, ...]:
    """Return the MAC and the functions of the rounds, each with its key. To copy one takes half the time to make one."""
    # Derived as the key that signs links is, so that neither tells anything about the other.
    key = sha256(b"pgherald message id " + secret).digest()
    rounds = (blake2s(digest_size=_HALF_BYTES, key=key, salt=bytes([n]), person=b"feistel") for n in range(_ROUNDS))
    return (blake2s(digest_size=_MAC_BYTES, key=key, person=b"captured"), *rounds)


def _digest(prepared: blake2s, data: bytes) -> bytes:
    copy = prepared.copy()
    copy.update(data)
    return copy.digest()


def _feistel(rounds: Iterable[blake2s], block: bytes) -> bytes:
    left, right = block[:_HALF_BYTES], block[_HALF_BYTES:]
    for function in rounds:
        mixed = int.from_bytes(left, "big") ^ int.from_bytes(_digest(function, right), "big")
        left, right = right, mixed.to_bytes(_HALF_BYTES, "big")
    return left + right


def _swap(block: bytes) -> bytes:
    """Return the block with its halves exchanged. Between two exchanges, the rounds in reverse order undo a network."""
    return block[_HALF_BYTES:] + block[:_HALF_BYTES]


def _text(block: bytes) -> str:
    return base64.b32encode(block).decode("ascii").rstrip("=").lower()
