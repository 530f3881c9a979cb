"""The page of List-Unsubscribe: GET only asks, POST acts, and nobody learns whether a row exists."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from listener.errors import DatabaseUnavailable, RuleBroken
from listener.mail.unsubscribe import Subscription, make_token, signing_key
from listener.web import unsubscribe as module
from listener.web.unsubscribe import UnsubscribePage

KEY = signing_key(b"secret")
SUBSCRIPTION = Subscription("rule", "7")
TOKEN = make_token(KEY, SUBSCRIPTION) or ""
GERMAN = make_token(KEY, Subscription("rule", "7", "de-at")) or ""
DAMAGED = TOKEN[:-2]


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


async def request(
    page: UnsubscribePage, method: str, token: str = TOKEN, query: str = "", **headers: str
) -> tuple[web.Response, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    made = make_mocked_request(method, f"/unsubscribe/x{query}", sent, match_info={"token": token})
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


@pytest.mark.parametrize("token", [f"{TOKEN}.", f"{TOKEN}>", TOKEN.upper(), f"{TOKEN[:20]} {TOKEN[20:]}", f"/{TOKEN}/"])
async def test_a_damaged_link_is_repaired(statements: Statements, token: str) -> None:
    page = unsubscribe_page()
    assert (await request(page, "GET", token))[0].status == 200
    assert (await request(page, "POST", token))[0].status == 200
    assert statements.run == [SUBSCRIPTION]


async def test_a_token_whose_rest_became_a_query_is_repaired(statements: Statements) -> None:
    page = unsubscribe_page()
    assert (await request(page, "POST", TOKEN[:30], f"?{TOKEN[30:]}"))[0].status == 200
    assert (await request(page, "POST", TOKEN, "?utm_source=mail&utm_medium=email"))[0].status == 200
    assert statements.run == [SUBSCRIPTION, SUBSCRIPTION]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", [DAMAGED, f"{DAMAGED}. Thanks", f"{TOKEN[:-2]}xx", TOKEN[2:], "", "x", "\x00"])
async def test_a_link_beyond_repair_is_incomplete_and_runs_nothing(
    statements: Statements, method: str, token: str
) -> None:
    page = unsubscribe_page()
    with capture_logs() as logs:
        for _ in range(3):
            response, text = await request(page, method, token)
            assert (response.status, "This link is incomplete" in text, "<form" in text) == (400, True, False)
    # One line, however many scanners come.
    [line] = logs
    assert (line["event"], line["log_level"], line["method"]) == ("unsubscribe_link_damaged", "warning", method)
    assert not token or token not in str(line)
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
    assert (await request(unsubscribe_page(**page), "GET"))[0].status == 200
    response, _ = await request(unsubscribe_page(**page), "POST")
    assert response.status == 503
    assert statements.run == []


async def test_too_many_requests_are_told_to_come_again(
    statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BURST_REQUESTS", 3)
    monkeypatch.setattr(module, "_REQUESTS_PER_S", 0.0)
    page = unsubscribe_page()
    for _ in range(10):
        assert (await request(page, "POST", DAMAGED))[0].status == 400
    assert [(await request(page, "POST"))[0].status for _ in range(5)] == [200, 200, 200, 503, 503]
    assert len(statements.run) == 3
    assert (await request(page, "POST", DAMAGED))[0].status == 400
    assert (await request(page, "GET"))[0].status == 200


@pytest.mark.parametrize(
    ("token", "accepted", "language", "words"),
    [
        (GERMAN, "", "de", "Abbestellen"),
        (GERMAN, "fr, en", "de", "Abbestellen"),
        (TOKEN, "", "en", "Unsubscribe"),
        (TOKEN, "de-CH, fr;q=0.8", "de", "Abbestellen"),
        (TOKEN, "ja, fr;q=0.5, de;q=0.6", "de", "Abbestellen"),
        (TOKEN, "de;q=0, fr;q=0.1", "fr", "Se désabonner"),
        (TOKEN, "*, ja", "en", "Unsubscribe"),
        (TOKEN, "de;q=0", "en", "Unsubscribe"),
        (TOKEN, "de;q=x, ;;;, ,q=1", "en", "Unsubscribe"),
        (make_token(KEY, Subscription("rule", "7", "ja")) or "", "es", "es", "Darse de baja"),
        (make_token(KEY, Subscription("rule", "7", "en")) or "", "de", "en", "Unsubscribe"),
        (DAMAGED, "de", "de", "Dieser Link ist unvollständig"),
    ],
)
async def test_the_page_speaks_the_readers_language(
    statements: Statements, token: str, accepted: str, language: str, words: str
) -> None:
    response, text = await request(unsubscribe_page(), "GET", token, Accept_Language=accepted)
    assert f'<html lang="{language}">' in text
    assert f"<title>{words}</title>" in text
    assert response.headers["Content-Language"] == language


async def test_every_answer_is_translated(statements: Statements) -> None:
    page = unsubscribe_page()
    assert "Sie sind abgemeldet" in (await request(page, "POST", GERMAN))[1]
    statements.error = DatabaseUnavailable("away")
    assert "in einer Minute noch einmal" in (await request(page, "POST", GERMAN))[1]
    # Without the key, the token cannot be read.
    assert "Please try again" in (await request(unsubscribe_page(key=None), "POST", GERMAN))[1]
