"""The lease ends here before it can end in the database, and belongs to one registration."""

import pytest

from listener.outbox.registration import Registration


@pytest.fixture
def registration(monkeypatch: pytest.MonkeyPatch) -> Registration:
    registration = Registration(lease_s=10)
    registration.worker = 7
    monkeypatch.setattr(Registration, "clock", staticmethod(lambda: 100.0))
    return registration


@pytest.mark.parametrize(("requested_at", "valid"), [(100.0, True), (91.1, True), (91.0, False), (80.0, False)])
def test_nine_tenths_of_the_lease_count_from_before_the_request(
    registration: Registration, requested_at: float, valid: bool
) -> None:
    registration.extend(requested_at)
    assert registration.is_leased(7) is valid


def test_the_lease_of_an_earlier_registration_does_not_come_back(registration: Registration) -> None:
    registration.extend(100.0)
    assert registration.is_leased(7)
    registration.worker = 8
    assert not registration.is_leased(7)
    assert registration.is_leased(8)


def test_before_the_first_registration_nothing_is_leased() -> None:
    assert not Registration(lease_s=10).is_leased(0)


@pytest.mark.parametrize(
    ("utf8", "text", "expected"),
    [
        (True, "é 你", "é 你"),
        (True, "\0\ud800", "\\0\\ud800"),
        (False, "é 你", "\\xe9 \\u4f60"),
        (False, None, None),
    ],
)
def test_characters_that_the_database_cannot_store_are_escaped(
    utf8: bool, text: str | None, expected: str | None
) -> None:
    registration = Registration(lease_s=10)
    registration.utf8 = utf8
    assert registration.encodable(text) == expected
