"""The bytes of a message, as a mark keeps them."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.errors import BadData
from listener.outbox.event import _UNPACKED_BELOW_BYTES, compress, decompress
from listener.transport.base import MAX_MESSAGE_BYTES


@given(st.binary(max_size=2 * _UNPACKED_BELOW_BYTES))
@example(b"")
@example(b"x" * (_UNPACKED_BELOW_BYTES - 1))
@example(b"x" * _UNPACKED_BELOW_BYTES)
@example(b"x" * 200_000)
def test_what_was_kept_is_what_was_sent(message: bytes) -> None:
    assert decompress(compress(message)) == message


def test_a_long_one_is_smaller() -> None:
    message = b'<td style=3D"padding:0">Caf=C3=A9</td>\r\n' * 100
    assert len(compress(message)) < len(message) / 10


def test_a_byte_that_has_changed_is_noticed() -> None:
    stored = bytearray(compress(b"short"))
    stored[8] ^= 1
    with pytest.raises(BadData, match="damaged") as caught:
        decompress(bytes(stored))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("stored", [b"", b"no stream", compress(b"x" * 5000)[:-5], compress(b"x" * 5000)[:10]])
def test_what_is_no_whole_stream_is_noticed(stored: bytes) -> None:
    with pytest.raises(BadData, match="damaged") as caught:
        decompress(stored)
    assert caught.value.reason == "unreadable"


def test_a_small_stream_of_a_huge_message_is_not_unpacked() -> None:
    assert decompress(compress(b"x" * MAX_MESSAGE_BYTES)) == b"x" * MAX_MESSAGE_BYTES
    with pytest.raises(BadData) as caught:
        decompress(zlib.compress(b"x" * 500_000_000))
    assert caught.value.reason == "too_large"
