"""The Host header, the origin of a POST, and exceptions that reach nobody."""

from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from listener.config.sections import Http
from listener.web import security
from listener.web.security import BOUNCES, HEADERS, UNSUBSCRIBE, check_request, same_origin, set_security_headers


async def answer(path: str, host: str, *, public: str = "https://mail.example.org") -> int:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    middleware = check_request(lambda: Http(allowed_hosts=("Herald.internal",), public_url=public))
    response = await middleware(make_mocked_request("GET", path, {"Host": host}), handler)
    return response.status


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "localhost:9599", 200),
        ("/", "10.1.2.3", 200),
        ("/", "[::1]:9599", 200),
        ("/", "herald.internal", 200),
        ("/", "mail.example.org", 421),
        (f"{UNSUBSCRIBE}token", "mail.example.org", 200),
        (f"{UNSUBSCRIBE}token", "evil.example", 421),
        (f"{BOUNCES}ses", "mail.example.org", 200),
        (f"{BOUNCES}ses", "evil.example", 421),
        ("/bounces", "mail.example.org", 421),
        ("/", "127.0.0.1.evil.example", 421),
        ("/", "[", 421),
        ("/", "", 421),
    ],
)
async def test_hosts(path: str, host: str, status: int) -> None:
    assert await answer(path, host) == status


async def test_without_a_public_url_no_more_names_are_accepted() -> None:
    assert await answer(f"{UNSUBSCRIBE}token", "mail.example.org", public="") == 421


@pytest.mark.parametrize(
    ("raised", "status"),
    [(ConnectionResetError(), 503), (TimeoutError(), 503), (ZeroDivisionError("secret"), 500)],
    ids=lambda value: str(value),
)
async def test_an_exception_becomes_a_response_without_its_words(raised: Exception, status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise raised

    response = await check_request(Http)(make_mocked_request("GET", "/", {"Host": "localhost"}), handler)
    assert isinstance(response, web.Response)
    assert response.status == status
    assert "secret" not in str(response.text)


async def test_http_errors_pass() -> None:
    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPNotFound

    with pytest.raises(web.HTTPNotFound):
        await check_request(Http)(make_mocked_request("GET", "/", {"Host": "localhost"}), handler)


async def test_a_handlers_own_header_stays() -> None:
    response = web.Response(headers={"Cache-Control": "no-cache"})
    await set_security_headers(make_mocked_request("GET", "/"), response)
    assert response.headers["Cache-Control"] == "no-cache"
    assert set(HEADERS) | {"Server"} <= set(response.headers)


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://herald:9599"}, False),
        ({"Origin": "http://HERALD:9599"}, True),
        ({"Origin": "http://herald:80"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://herald:9599"}, True),
        ({"Origin": "ftp://herald:9599"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "http://herald:9599@example.org"}, False),
    ],
)
def test_the_origin_of_a_post(headers: dict[str, str], same: bool) -> None:
    assert same_origin(make_mocked_request("POST", "/", {"Host": "herald:9599", **headers})) is same


async def test_a_body_that_comes_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_BODY_TIMEOUT_S", 0.01)

    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    payload = StreamReader(Mock(_reading_paused=False), limit=2**16)
    payload.feed_data(b"token=")
    request = make_mocked_request("POST", "/login", {"Host": "localhost", "Content-Length": "100"}, payload=payload)
    with pytest.raises(web.HTTPRequestTimeout):
        await check_request(Http)(request, handler)
