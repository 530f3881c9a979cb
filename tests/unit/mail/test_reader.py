"""Readers: their language and their time zone, by the columns of a row."""

from datetime import UTC, datetime
from typing import Any

import pytest

from listener.mail.reader import current_reader, reader_of, writing_for


@pytest.mark.parametrize(
    ("tag", "locale"),
    [
        ("zh-Hans", "zh_Hans"), ("zh-TW", "zh_Hant_TW"), ("pt-br", "pt_BR"), ("sr-Latn", "sr_Latn"), ("no", "no"),
        ("nb", "nb"), ("in", "id_ID"), ("iw", "he_IL"), ("tl", "fil_PH"), ("de_AT.UTF-8", "de"), ("de-DE-x-y", "de_DE"),
        ("C", "en"), ("POSIX", "en"), ("", "en"), (None, "en"), (7, "en"), ("../../x", "en"), ("xx-YY", "en"),
        ("x" * 100_000, "en"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_the_language(tag: Any, locale: str) -> None:
    assert str(reader_of({"language": tag}, "", "ltr").locale) == locale


def test_without_a_language_it_is_that_of_the_template() -> None:
    assert str(reader_of({}, "de-at", "ltr").locale) == "de_AT"
    assert str(reader_of({"language": "xx"}, "de", "ltr").locale) == "de"
    assert reader_of({"language": "ar-EG"}, "", "rtl").direction == "rtl"


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("Europe/Kiev", "Europe/Kiev"),
        ("Europe/Kyiv", "Europe/Kyiv"), ("UTC", "UTC"), ("UTC+2", None), ("posixrules", None), ("", None), (7, None),
        ("../../etc/passwd", None), ("/etc/localtime", None), ("Europe/Berlin\0", None), ("x" * 100_000, None),
        (["UTC"], None),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_the_time_zone(name: Any, zone: str | None) -> None:
    found = reader_of({"timezone": name}, "", "ltr").zone
    assert (None if found is None else str(found)) == zone


def test_a_time_is_moved_into_the_zone_if_it_can_be() -> None:
    tokyo = reader_of({"timezone": "Asia/Tokyo"}, "", "ltr")
    assert tokyo.local(datetime(2026, 12, 6, 23, tzinfo=UTC)).isoformat() == "2026-12-07T08:00:00+09:00"
    for stays in (datetime(2026, 12, 6, 23), datetime.max.replace(tzinfo=UTC)):
        assert tokyo.local(stays) is stays
    assert reader_of({}, "", "ltr").local(datetime(2026, 12, 6, 23, tzinfo=UTC)).tzinfo is UTC


def test_there_is_no_reader_between_messages() -> None:
    with writing_for(reader := reader_of({}, "", "ltr")):
        assert current_reader() is reader
    assert current_reader() is None
