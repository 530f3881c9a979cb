"""Log events: whatever is in one, a line stays a line and drives no terminal."""

import io
import json
import logging
import sys

import pytest
import structlog

from listener import logs

EVIL = "\x1b]0;x\x07\x9b1m\u202e\u200b\U000e0041\x7f"


@pytest.fixture(autouse=True)
def _as_before() -> object:
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(None)


def written(form: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(form, "info")  # type: ignore[arg-type]
    log = structlog.get_logger()
    log.warning(
        "event_failed", key=EVIL, error=f"550 {EVIL} two\nwords", rules=[EVIL], more={EVIL: 1}, café="Zürich 寿司"
    )
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.error("crashed", exc_info=True)
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    said = written("console", monkeypatch, terminal=terminal)
    if terminal:
        # The colours are our own.
        for code in ("0", "1", "2", "31", "33", "35", "36"):
            said = said.replace(f"\x1b[{code}m", "")
    assert {char for char in EVIL if not char.isprintable() and char in said} == set()
    assert "\ufffd]0;x\ufffd\ufffd1m" in said
    assert "Zürich 寿司" in said
    assert r"two\nwords" in said
    assert "ValueError: \ufffd]0;x" in said


def test_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    said = written("json", monkeypatch)
    assert {char for char in EVIL if not char.isprintable() and char in said} == set()
    failed, crashed = map(json.loads, said.splitlines())
    assert (failed["key"], failed["rules"]) == (EVIL, [EVIL])
    assert "Zürich 寿司" in said
    assert EVIL in crashed["exception"]


def test_what_a_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("console", "info")
    # pytest has a handler of its own at the root; without one it is this that speaks.
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.makeLogRecord({"msg": f"a task failed: {EVIL}", "levelno": logging.ERROR}))
    assert stream.getvalue() == "a task failed: \ufffd]0;x\ufffd\ufffd1m\ufffd\ufffd\ufffd\ufffd\n"
