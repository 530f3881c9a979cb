"""The bytes of a message, as a mark keeps them."""

import zlib
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.outbox import _SHORT, Event, _packed


@given(st.binary(max_size=2 * _SHORT))
@example(b"")
@example(b"x" * (_SHORT - 1))
@example(b"x" * _SHORT)
@example(b"x" * 200_000)
def test_what_was_kept_is_what_was_sent(message: bytes) -> None:
    event = Event(
        7, "dateplan_verified", "1", 0, 1, datetime.now(UTC), 0.0, 40, "a@example.org", _packed(message), None
    )
    assert event.kept == message


def test_a_long_one_is_smaller() -> None:
    message = b'<td style=3D"padding:0">Caf=C3=A9</td>\r\n' * 100
    assert len(_packed(message)) < len(message) / 10


def test_a_byte_that_has_changed_is_noticed() -> None:
    packed = bytearray(_packed(b"short"))
    packed[8] ^= 1
    with pytest.raises(zlib.error):
        zlib.decompress(packed)
