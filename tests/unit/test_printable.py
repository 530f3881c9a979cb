"""What a stranger's text may do to a terminal, a log or a reader: nothing."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.printable import as_json, duration, excerpt, printable, printable_lines

FAMILY = "👨‍👩‍👧 🐈‍⬛ ❤️‍🔥 🏃🏽‍♀️ 🙂‍↔️"


@pytest.mark.parametrize(
    "char",
    [
        *map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080, 16))),
        *"\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff\ud800\udfff\xad\u034f\u180e\U000e007f",
    ],
    ids=ascii,
)  # fmt: skip
def test_is_shown_as_a_replacement(char: str) -> None:
    assert printable(f"a{char}b") == "a\ufffdb"
    assert printable_lines(f"a{char}b") == ("a\ufffdb" if char not in "\n\t" else f"a{char}b")
    assert json.loads(as_json(f"a{char}b")) == f"a{char}b"
    assert char not in as_json(f"a{char}b")


@pytest.mark.parametrize("text", ["Café 寿司 – «Самовар»", "שלום عربي", "می‌خواهم", "क्‍ष", FAMILY, "葛\U000e0100", ""])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == printable_lines(text) == text
    assert as_json(text) == f'"{text}"' or "\U000e0100" in text


def test_a_joiner_that_joins_nothing_goes() -> None:
    assert printable("a\u200db \u200d👩 👩\u200d \u200d") == "a\ufffdb \ufffd👩 👩\ufffd \ufffd"


def test_lines_of_a_body_stay_lines() -> None:
    assert printable_lines("one\r\n\ttwo\rthree\n") == "one\n\ttwo\ufffdthree\n"
    assert as_json({"a": [1]}, indent=2) == '{\n  "a": [\n    1\n  ]\n}'


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_whatever_comes(text: str) -> None:
    for shown in (printable(text), printable_lines(text).replace("\n", "").replace("\t", "")):
        assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(char) for char in shown}
        assert not any(unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"} for char in shown)  # fmt: skip
        shown.encode()
    assert json.loads(as_json([text])) == [text]


def test_every_character_with_a_direction_of_its_own_is_known() -> None:
    formats = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.bidirectional(chr(code)) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}]  # fmt: skip
    assert len(formats) == 9
    assert set(printable("".join(formats))) == {"\ufffd"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0042, "4 ms"), (1.26, "1.3 s"), (59, "59 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 d"), (None, "–")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_what_does_not_show_is_shown() -> None:
    assert excerpt("a\u202eb\x00\x1b[31m\n\u200d") == "a\ufffdb\ufffd\ufffd[31m\ufffd\ufffd"
    assert excerpt("é日本🎉") == "é日本🎉"
    assert len(excerpt("x" * 10**6)) == 161
