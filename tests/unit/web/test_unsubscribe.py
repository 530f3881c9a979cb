"""The page of List-Unsubscribe: GET only asks, POST acts, and nobody learns whether a row exists."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from listener.errors import DatabaseUnavailable, RuleBroken
from listener.mail.unsubscribe import Subscription, make_token, signing_key
from listener.web import unsubscribe as module
from listener.web.unsubscribe import UnsubscribePage

KEY = signing_key(b"secret")
SUBSCRIPTION = Subscription("rule", "7")
TOKEN = make_token(KEY, SUBSCRIPTION) or ""


class Statements:
    """Stands in for the statement of a rule. It counts its runs, and fails as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run: list[Subscription] = []
        self.error: Exception | None = None
        monkeypatch.setattr(module, "unsubscribe", self)

    async def __call__(self, pool: object, rules: object, subscription: Subscription) -> None:
        self.run.append(subscription)
        if self.error is not None:
            raise self.error


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    return Statements(monkeypatch)


def unsubscribe_page(*, key: bytes | None = KEY, ready: bool = True) -> UnsubscribePage:
    health: Any = SimpleNamespace(is_ready=ready, rules={})
    page = UnsubscribePage(health, None)  # type: ignore[arg-type]
    page.key = key
    return page


async def request(page: UnsubscribePage, method: str, token: str = TOKEN) -> tuple[web.Response, str]:
    made = make_mocked_request(method, f"/unsubscribe/{token}", match_info={"token": token})
    response = await (page.get if method == "GET" else page.post)(made)
    assert isinstance(response.text, str)
    return response, response.text


async def test_get_asks_and_changes_nothing(statements: Statements) -> None:
    response, text = await request(unsubscribe_page(), "GET")
    assert response.status == 200
    assert "Do you want to stop receiving these emails?" in text
    assert '<form method="post">' in text
    assert statements.run == []
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "form-action 'self'" in response.headers["Content-Security-Policy"]


async def test_post_runs_the_statement_each_time(statements: Statements) -> None:
    page = unsubscribe_page()
    for _ in range(2):
        response, text = await request(page, "POST")
        assert (response.status, "You are unsubscribed" in text, "<form" in text) == (200, True, False)
    assert statements.run == [SUBSCRIPTION, SUBSCRIPTION]


async def test_an_invalid_token_gets_the_same_answer_and_runs_nothing(statements: Statements) -> None:
    response, text = await request(unsubscribe_page(), "POST", f"{TOKEN[:-2]}xx")
    assert (response.status, "You are unsubscribed" in text) == (200, True)
    assert statements.run == []


@pytest.mark.parametrize("error", [DatabaseUnavailable("away: secret detail"), RuleBroken("secret detail")])
async def test_an_error_asks_for_another_try_and_shows_no_detail(statements: Statements, error: Exception) -> None:
    statements.error = error
    response, text = await request(unsubscribe_page(), "POST")
    assert (response.status, response.headers["Retry-After"]) == (503, "60")
    assert "We could not process your request. Please try again in a minute." in text
    assert "secret detail" not in text


@pytest.mark.parametrize("page", [{"key": None}, {"ready": False}])
async def test_before_the_daemon_is_ready_nothing_is_run(statements: Statements, page: dict[str, Any]) -> None:
    response, _ = await request(unsubscribe_page(**page), "POST")
    assert response.status == 503
    assert statements.run == []


async def test_too_many_requests_are_told_to_come_again(
    statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BURST_REQUESTS", 3)
    monkeypatch.setattr(module, "_REQUESTS_PER_S", 0.0)
    page = unsubscribe_page()
    assert [(await request(page, "POST"))[0].status for _ in range(5)] == [200, 200, 200, 503, 503]
    assert len(statements.run) == 3
