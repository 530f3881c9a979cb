"""Authorization on the page: the token, the sessions, and the limit on guesses."""

import time
from http.cookies import SimpleCookie

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from listener import outage
from listener.web import auth
from listener.web.auth import AdminAuth

TOKEN = "correct-horse-battery"


def request(**headers: str) -> web.Request:
    return make_mocked_request("POST", "/login", {name.replace("_", "-"): value for name, value in headers.items()})


def cookie(response: web.Response) -> str:
    [morsel] = SimpleCookie(response.cookies.output(header="")).values()
    return f"{morsel.key}={morsel.value}"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, True),
        ({"Authorization": f"bearer  {TOKEN} "}, True),
        ({"Authorization": f"Basic {TOKEN}"}, False),
        ({"Authorization": "Bearer wrong"}, False),
        ({"Authorization": "Bearer \u00e9"}, False),
        ({"Cookie": "pgherald=unknown"}, False),
        ({}, False),
    ],
)
async def test_only_the_token_authorizes(headers: dict[str, str], allowed: bool) -> None:
    assert AdminAuth(lambda: TOKEN).is_authorized(request(**headers)) is allowed


async def test_without_a_token_nothing_authorizes() -> None:
    read_only = AdminAuth(lambda: None)
    assert not read_only.enabled
    for given in ("", "None"):
        assert not read_only.log_in(request(), given, web.Response())
        with pytest.raises(web.HTTPForbidden) as refused:
            read_only.check(request(Authorization=f"Bearer {given}"))
        assert "set [http] admin_token" in str(refused.value.text)


async def test_a_session_lasts_until_the_logout() -> None:
    admin, response = AdminAuth(lambda: TOKEN), web.Response()
    assert admin.log_in(request(), TOKEN, response)
    session = request(Cookie=cookie(response))
    admin.check(session)
    admin.log_out(session, web.Response())
    with pytest.raises(web.HTTPForbidden):
        admin.check(session)


async def test_a_session_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    admin, response = AdminAuth(lambda: TOKEN), web.Response()
    admin.log_in(request(), TOKEN, response)
    later = time.monotonic() + auth._SESSION_S
    monkeypatch.setattr(auth.time, "monotonic", lambda: later)
    assert not admin.is_authorized(request(Cookie=cookie(response)))


async def test_the_oldest_sessions_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_MAX_SESSIONS", 2)
    admin, responses = AdminAuth(lambda: TOKEN), [web.Response() for _ in range(4)]
    for response in responses:
        admin.log_in(request(), TOKEN, response)
    assert [admin.is_authorized(request(Cookie=cookie(response))) for response in responses] == [
        False, True, True, True,
    ]  # fmt: skip


async def test_another_sites_page_cannot_act_with_the_token() -> None:
    admin = AdminAuth(lambda: TOKEN)
    with pytest.raises(web.HTTPForbidden):
        admin.check(request(Authorization=f"Bearer {TOKEN}", Sec_Fetch_Site="cross-site"))
    assert not admin.log_in(request(Origin="https://evil.example"), TOKEN, web.Response())


async def test_wrong_tokens_are_logged_and_never_lock_the_right_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        outage.log, "warning", lambda event, **fields: logged.append(f"{event} {fields}"), raising=False
    )
    admin = AdminAuth(lambda: TOKEN)
    for _ in range(100):
        assert not admin.log_in(request(), "wr0ng-token", web.Response())
        assert not admin.is_authorized(request(Authorization="Bearer wr0ng-token"))
    assert admin.log_in(request(), TOKEN, web.Response())
    assert admin.is_authorized(request(Authorization=f"Bearer {TOKEN}"))
    [line] = logged
    assert line.startswith("login_refused")
    assert "wr0ng" not in line


async def test_another_sites_page_cannot_log_out() -> None:
    admin, response = AdminAuth(lambda: TOKEN), web.Response()
    admin.log_in(request(), TOKEN, response)
    with pytest.raises(web.HTTPForbidden):
        admin.log_out(request(Cookie=cookie(response), Sec_Fetch_Site="cross-site"), web.Response())
    admin.check(request(Cookie=cookie(response)))


@pytest.mark.parametrize(
    ("origin", "secure"), [("https://herald:9599", True), ("http://herald:9599", False), (None, False)]
)
async def test_the_cookie_is_secure_where_the_browser_uses_tls(origin: str | None, secure: bool) -> None:
    """A proxy may end TLS, so that we see none of it."""
    response = web.Response()
    headers = {"Host": "herald:9599", **({"Origin": origin} if origin else {})}
    assert AdminAuth(lambda: TOKEN).log_in(request(**headers), TOKEN, response)
    assert bool(response.cookies["pgherald"]["secure"]) is secure
