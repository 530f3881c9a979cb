"""The demo reads the daemon's log until it is ready, and keeps the reader's own settings away from it."""

import asyncio

import pytest

from listener.demo.daemon import _environment, _ready
from listener.errors import PgheraldError


def log(*lines: str) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data("".join(f"{line}\n" for line in lines).encode())
    reader.feed_eof()
    return reader


READY = '{"event": "ready"}'


async def test_the_pages_address_comes_before_ready() -> None:
    listening = '{"event": "http_listening", "url": "http://127.0.0.1:1"}'
    assert await _ready(log("no JSON", listening, READY)) == "http://127.0.0.1:1"
    assert await _ready(log(READY)) is None


@pytest.mark.parametrize(
    ("lines", "words"), [(["Error: no rule"], "did not start: Error: no rule"), ([], "it logged nothing")]
)
async def test_a_daemon_that_ends_is_an_error_with_its_last_line(lines: list[str], words: str) -> None:
    with pytest.raises(PgheraldError, match=words):
        await _ready(log(*lines))


def test_only_the_demos_settings_reach_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHERALD_HTTP_LISTEN", "off")
    monkeypatch.setenv("PGHOST", "production")
    monkeypatch.setenv("HOME_OF_TESTS", "kept")
    environment = _environment("postgresql://demo", "smtp://demo")
    assert environment["HOME_OF_TESTS"] == "kept"
    assert {name for name in environment if name.startswith(("PGH", "PGO"))} == {
        "PGHERALD_DATABASE_URL", "PGHERALD_SMTP_URL", "PGHERALD_MAIL_FROM",
    }  # fmt: skip
