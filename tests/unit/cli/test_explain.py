"""The words of `explain`."""

import pytest

from listener.admin.history import RowHistory
from listener.cli.explain import _show

EVENT = {
    "id": 7,
    "person": None,
    "message_id": "<key@example.org>",
    "state": "skipped",
    "reason": "no_consent",
    "attempt": 0,
    "history": [
        {"at": "2026-11-22T17:44:45.123456+00:00", "what": "captured", "detail": "by transaction 4711"},
        {"at": "2026-11-22T17:44:46+00:00", "what": "skipped", "detail": None},
    ],
}


def test_the_history_of_an_event_one_entry_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    _show(RowHistory([EVENT], True, None, None, None), "paid 4711")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "event 7: skipped (no_consent), attempt 0",
        "  Message-ID <key@example.org>",
        "  2026-11-22 17:44:45.123 UTC  captured      by transaction 4711",
        "  2026-11-22 17:44:46.000 UTC  skipped",
    ]


def test_the_person_of_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    _show(RowHistory([{**EVENT, "person": "9"}], True, None, None, None), "paid 4711")
    assert capsys.readouterr().out.startswith("event 7, for 9: skipped (no_consent), attempt 0\n")


def test_why_there_is_no_event(capsys: pytest.CaptureFixture[str]) -> None:
    _show(RowHistory([], False, "there is no such row in public.plan", None, None), "paid 4711")
    assert capsys.readouterr().out == "paid 4711: no event; there is no such row in public.plan\n"
